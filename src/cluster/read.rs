//! Objects as they can be read.
//!
//! One object that cannot be, such as one that another version of Mandate has stored, must not
//! hide the others of its kind: a typed list fails whole, and would fail for as long as that
//! object stands.

use std::borrow::Cow;
use std::fmt::Debug;

use futures::{Stream, StreamExt as _};
use kube::core::ObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use tracing::warn;

/// An object, or why it cannot be read: in the words that the command line has for it, which
/// `kube`'s own guard puts otherwise.
#[derive(Clone, Debug)]
pub(super) struct Read<K> {
    meta: ObjectMeta,
    /// The object.
    pub object: Result<K, String>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Read<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = serde_json::Value::deserialize(deserializer)?;
        let meta = whole.get("metadata").map(ObjectMeta::deserialize).transpose().map_err(D::Error::custom)?.unwrap_or_default();
        Ok(Self { meta, object: serde_json::from_value(whole).map_err(|error| error.to_string()) })
    }
}

impl<K: Resource> Resource for Read<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// Watches all objects of a kind that can be read. One that no longer can be is gone, for
/// whoever listens: its last good version must not stay in force. `known` is the store that the
/// stream fills.
pub fn readable<K>(client: Client, known: Store<K>) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    watch(Api::<Read<K>>::all(client), watcher::Config::default()).default_backoff().filter_map(move |event| {
        std::future::ready(match event {
            Ok(Event::Init) => Some(Ok(Event::Init)),
            Ok(Event::InitApply(read)) => said(read).ok().map(Event::InitApply).map(Ok),
            Ok(Event::InitDone) => Some(Ok(Event::InitDone)),
            Ok(Event::Apply(read)) => match said(read) {
                Ok(object) => Some(Ok(Event::Apply(object))),
                Err(gone) => last(&known, &gone).map(Event::Delete).map(Ok),
            },
            Ok(Event::Delete(read)) => {
                let deleted = read.object.ok().or_else(|| last(&known, &read.meta));
                deleted.map(Event::Delete).map(Ok)
            }
            Err(error) => Some(Err(error)),
        })
    })
}

/// The object; of one that cannot be read, its metadata, once the log has it.
fn said<K: Resource<DynamicType = ()>>(read: Read<K>) -> Result<K, Box<ObjectMeta>> {
    let (namespace, name) = (read.namespace().unwrap_or_default(), read.name_any());
    read.object.map_err(|why| {
        warn!(kind = %K::kind(&()), namespace, name, why, "an object cannot be read, and counts as gone");
        Box::new(read.meta)
    })
}

fn last<K: Resource<DynamicType = ()> + Clone>(known: &Store<K>, meta: &ObjectMeta) -> Option<K> {
    let name = ObjectRef::new(meta.name.as_deref().unwrap_or_default());
    let name = match &meta.namespace {
        Some(namespace) => name.within(namespace),
        None => name,
    };
    known.get(&name).map(|object| (*object).clone())
}
