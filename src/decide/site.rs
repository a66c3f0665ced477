//! Where rules look: forms of places, and one walk over an object that visits them all.
//!
//! A form is a path such as `spec.C[].env[].valueFrom.secretKeyRef`: `[]` stands for every
//! item of a list, `{}` for every member of an object, `C` for each of the three lists of
//! containers. All sites of all rules stand in one tree, so that an object is walked once,
//! however many rules there are, and a rule costs nothing where its place is not there.

use std::fmt::Write as _;
use std::sync::LazyLock;

use super::json::{Read as _, Value};
use super::pod::CONTAINER_LISTS;
use super::predicate::{self, Answers, Cond, Part, Place, Resolver, RuleError, Term, Test};
use super::rule::{Claim, RULES, Rule};
use super::world::World;
use crate::api::Workloads;

/// One form of places where a rule can be broken.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// In what objects.
    pub on: On,
    /// The form, from the root of the object.
    pub at: &'static str,
    /// What a finding's path has after it, such as `.name`.
    pub field: &'static str,
    /// When it is broken there.
    pub when: Cond,
    /// What is wrong, in one sentence.
    pub message: &'static str,
    /// What to write instead.
    pub help: &'static str,
    /// What of it a policy's `allow` is compared with, where the rule takes one.
    pub allow: Option<Term>,
}

impl Site {
    /// A site of pods that is broken wherever something stands there.
    pub const POD: Self = Self { on: On::Pod, at: "", field: "", when: Cond::Always, message: "", help: "", allow: None };
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $group:literal $version:literal $resource:literal $subresource:literal,)*) => {
        /// A kind of object that rules look at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum On { $($(#[$doc])* $name),* }

        impl On {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// API group, version, plural resource and subresource.
            #[must_use]
            pub fn resource(self) -> (&'static str, &'static str, &'static str, &'static str) {
                match self { $(Self::$name => ($group, $version, $resource, $subresource)),* }
            }

            /// The kind as manifests write it.
            #[must_use]
            pub fn kind(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

kinds! {
    /// Pods, and the templates they are made from.
    Pod: "" "v1" "pods" "",
    /// Secrets.
    Secret: "" "v1" "secrets" "",
    /// Requests for tokens of ServiceAccounts.
    TokenRequest: "" "v1" "serviceaccounts" "token",
    /// ServiceAccounts.
    ServiceAccount: "" "v1" "serviceaccounts" "",
    /// ConfigMaps.
    ConfigMap: "" "v1" "configmaps" "",
    /// Bindings of pods to nodes, whose annotations become the pod's.
    Binding: "" "v1" "pods" "binding",
    /// Volumes.
    PersistentVolume: "" "v1" "persistentvolumes" "",
    /// Claims to volumes.
    PersistentVolumeClaim: "" "v1" "persistentvolumeclaims" "",
    /// Classes of volumes.
    StorageClass: "storage.k8s.io" "v1" "storageclasses" "",
    /// Sets of pods with claims of their own.
    StatefulSet: "apps" "v1" "statefulsets" "",
    /// What the Secrets Store CSI driver mounts.
    SecretProviderClass: "secrets-store.csi.x-k8s.io" "v1" "secretproviderclasses" "",
    /// Claims to devices.
    ResourceClaim: "resource.k8s.io" "v1" "resourceclaims" "",
    /// Templates of claims to devices.
    ResourceClaimTemplate: "resource.k8s.io" "v1" "resourceclaimtemplates" "",
    /// Requests for certificates.
    CertificateSigningRequest: "certificates.k8s.io" "v1" "certificatesigningrequests" "",
}

impl On {
    /// The kind with this resource.
    #[must_use]
    pub fn of_resource(group: &str, resource: &str, subresource: &str) -> Option<Self> {
        // The older way to bind a pod, still served.
        if (group, resource, subresource) == ("", "bindings", "") {
            return Some(Self::Binding);
        }
        Self::ALL.iter().copied().find(|on| {
            let (g, _, r, s) = on.resource();
            (g, r, s) == (group, resource, subresource)
        })
    }

    /// Whether its objects stand in no namespace.
    #[must_use]
    pub fn is_cluster_scoped(self) -> bool {
        matches!(self, Self::PersistentVolume | Self::StorageClass | Self::CertificateSigningRequest)
    }

    /// The namespace of an object of this kind in a manifest: `default` where it names none, and
    /// empty where it stands in none.
    #[must_use]
    pub fn namespace<'a>(self, object: &'a Value<'a>) -> &'a str {
        if self.is_cluster_scoped() { "" } else { namespace(object) }
    }

    /// The kind of a manifest.
    #[must_use]
    pub fn of_kind(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        Self::ALL.iter().copied().find(|on| on.kind() == kind && on.resource().0 == group)
    }
}

/// The namespace of an object in a manifest, or `default`.
#[must_use]
pub fn namespace<'a>(object: &'a Value<'a>) -> &'a str {
    match object.member("metadata").map_or("", |metadata| metadata.text("namespace")) {
        "" => "default",
        namespace => namespace,
    }
}

/// One step of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into a member.
    Member(&'static str),
    /// Into every item of a list; the name by which conditions and texts call the item.
    Items(&'static str),
    /// Into every member of an object.
    Members,
}

impl Step {
    /// Whether it enters an item or a member.
    #[must_use]
    pub fn is_entry(&self) -> bool {
        matches!(self, Self::Items(_) | Self::Members)
    }

    /// The name of the item it enters.
    #[must_use]
    pub fn item_name(&self) -> Option<&'static str> {
        match self {
            Self::Items(name) => Some(name),
            _ => None,
        }
    }
}

/// What conditions and texts call an item of this list.
fn item_name(list: &'static str) -> &'static str {
    match list {
        "initContainers" | "containers" | "ephemeralContainers" => "container",
        "volumes" => "volume",
        "sources" => "source",
        "httpHeaders" => "header",
        "volumeMounts" => "mount",
        "secrets" => "secret",
        "imagePullSecrets" => "pullSecret",
        "volumeClaimTemplates" => "claim",
        "resourceClaims" => "claim",
        other => other,
    }
}

/// The steps of a form, once for each list of containers where it speaks of `C`.
#[must_use]
pub fn forms(form: &'static str) -> Vec<Vec<Step>> {
    let mut all = vec![vec![]];
    for member in predicate::members(form) {
        let (name, entry) = match (member.strip_suffix("{}"), member) {
            (Some(name), _) => (name, Some(Step::Members)),
            // `x[]` is read as the member `x` and an empty key.
            (None, "") => ("", Some(Step::Items(""))),
            (None, name) => (name, None),
        };
        if name == "C" {
            all = CONTAINER_LISTS
                .iter()
                .flat_map(|list| all.iter().map(move |steps| [steps.as_slice(), &[Step::Member(list)]].concat()))
                .collect();
        } else if !name.is_empty() {
            all.iter_mut().for_each(|steps| steps.push(Step::Member(name)));
        }
        if let Some(entry) = entry {
            for steps in &mut all {
                steps.push(match (entry, steps.last()) {
                    (Step::Items(_), Some(Step::Member(list))) => Step::Items(item_name(list)),
                    (entry, _) => entry,
                });
            }
        }
    }
    all
}

/// A list item or map member that was entered on the way.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// What it is.
    pub value: &'a Value<'a>,
    /// Its place in the list.
    pub index: usize,
    /// Its key in the map.
    pub key: Option<&'a str>,
}

/// Where an object begins.
#[derive(Clone, Copy, Debug)]
pub enum Root<'a> {
    /// An object, or a template with `metadata` and `spec` of its own; its path in the whole.
    Object(&'a Value<'a>, &'a str),
    /// The bare spec of a pod, somewhere in an object.
    Spec(&'a Value<'a>, &'a str),
    /// What stands in a pod's spec elsewhere, alone.
    Piece(&'a Value<'a>, &'a str, Piece),
}

/// What can stand without a spec around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// One container.
    Container,
    /// One volume.
    Volume,
    /// The name of one pull secret.
    PullSecret,
}

impl Piece {
    /// The list of a pod's spec in which it would stand.
    fn list(self) -> &'static str {
        match self {
            Self::Container => "containers",
            Self::Volume => "volumes",
            Self::PullSecret => "imagePullSecrets",
        }
    }
}

impl<'a> Root<'a> {
    /// A member that is there and not null.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&'a Value<'a>> {
        match self {
            Self::Object(object, _) => object.member(name),
            Self::Spec(spec, _) => (name == "spec").then_some(*spec),
            Self::Piece(..) => None,
        }
    }

    /// Visits every place of one form.
    pub(super) fn visit(&self, form: &[Step], items: &mut Vec<Item<'a>>, hit: &mut dyn FnMut(&'a Value<'a>, &[Item<'a>])) {
        match form.split_first() {
            Some((Step::Member(name), rest)) => {
                if let Some(value) = self.member(name) {
                    visit(value, rest, items, hit);
                }
            }
            _ => {
                if let Self::Object(object, _) = self {
                    visit(object, form, items, hit);
                }
            }
        }
    }

    /// The path of a place that was reached by these steps.
    pub(super) fn path(&self, steps: &[Step], items: &[Item<'_>], field: &str) -> String {
        let mut path = String::with_capacity(64);
        // What leads to the root is in its path.
        let (at, above) = match self {
            Self::Object(_, at) => (at, 0),
            Self::Spec(_, at) => (at, 1),
            Self::Piece(_, at, _) => (at, 3),
        };
        path.push_str(at);
        let above = &steps[..above.min(steps.len())];
        let steps = &steps[above.len()..];
        let mut items = items.iter().skip(above.iter().filter(|step| step.is_entry()).count());
        for step in steps {
            // INVARIANT: writing to a String cannot fail.
            let _ = match step {
                Step::Member(name) => write!(path, "{}{name}", if path.is_empty() { "" } else { "." }),
                Step::Items(_) => write!(path, "[{}]", items.next().map_or(0, |item| item.index)),
                Step::Members => write!(path, "['{}']", items.next().and_then(|item| item.key).unwrap_or_default()),
            };
        }
        path.push_str(if path.is_empty() { field.trim_start_matches('.') } else { field });
        path
    }
}

fn visit<'a>(value: &'a Value<'a>, form: &[Step], items: &mut Vec<Item<'a>>, hit: &mut dyn FnMut(&'a Value<'a>, &[Item<'a>])) {
    match form.split_first() {
        None => hit(value, items),
        Some((Step::Member(name), rest)) => {
            if let Some(value) = value.member(name) {
                visit(value, rest, items, hit);
            }
        }
        Some((step, rest)) => enter(value, *step, items, &mut |value, items| visit(value, rest, items, hit)),
    }
}

/// Enters every item or member.
fn enter<'a>(
    value: &'a Value<'a>,
    step: Step,
    items: &mut Vec<Item<'a>>,
    then: &mut dyn FnMut(&'a Value<'a>, &mut Vec<Item<'a>>),
) {
    match (step, value) {
        (Step::Items(_), Value::Array(list)) => {
            for (index, value) in list.iter().enumerate() {
                items.push(Item { value, index, key: None });
                then(value, items);
                items.pop();
            }
        }
        (Step::Members, Value::Object(_)) => {
            for (index, (key, value)) in value.members().enumerate() {
                items.push(Item { value, index, key: Some(key) });
                then(value, items);
                items.pop();
            }
        }
        _ => {}
    }
}

/// One object under review, with what is known about it.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Where it begins.
    pub root: Root<'a>,
    /// What it is.
    pub on: On,
    /// Its name in the request, or empty where the API server makes one.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Whether the API server has yet to fill in what it fills in: a template, or a manifest.
    pub unadmitted: bool,
    /// The task that a pod names by its label.
    pub task: Option<Claim<'a>>,
    /// Everything else that is known.
    pub world: &'a World,
}

impl<'a> Subject<'a> {
    /// The `spec`, or null.
    #[must_use]
    pub fn spec(&self) -> &'a Value<'a> {
        static NONE: Value<'static> = Value::Null;
        self.root.member("spec").unwrap_or(&NONE)
    }

    /// The path of something outside of the `spec`; a bare spec has nothing there.
    #[must_use]
    pub fn path(&self, tail: &str) -> String {
        match self.root {
            Root::Object(_, "") | Root::Spec(..) | Root::Piece(..) => tail.to_owned(),
            Root::Object(_, at) => format!("{at}.{tail}"),
        }
    }

    /// The path of something in the `spec`.
    #[must_use]
    pub fn spec_path(&self, tail: &str) -> String {
        match self.root {
            Root::Object(_, "") => format!("spec.{tail}"),
            Root::Object(_, at) => format!("{at}.spec.{tail}"),
            Root::Spec(_, at) | Root::Piece(_, at, _) => format!("{at}.{tail}"),
        }
    }

    /// The name of what the pod's own task owns.
    #[must_use]
    pub fn own(&self) -> Option<&'a str> {
        self.task?.task.map(|task| task.owns.as_str())
    }
}

/// One place under review: what conditions look at.
#[derive(Clone, Copy)]
pub struct Scene<'a, 'b> {
    /// The object.
    pub subject: &'b Subject<'a>,
    /// What stands at the place.
    pub this: &'a Value<'a>,
    /// The items and members it stands in, outermost first.
    pub items: &'b [Item<'a>],
    /// What has been answered for the whole object.
    pub answers: &'b Answers,
}

/// A site with everything resolved, for one form.
#[derive(Debug)]
pub struct Ready {
    /// The rule.
    pub rule: &'static Rule,
    /// See [`Site::at`].
    pub at: &'static str,
    /// The steps that lead there.
    pub steps: Vec<Step>,
    /// See [`Site::field`].
    pub field: &'static str,
    /// See [`Site::when`].
    pub when: Test,
    /// See [`Site::message`].
    pub message: Vec<Part>,
    /// See [`Site::help`].
    pub help: Vec<Part>,
    /// See [`Site::allow`].
    pub allow: Option<Place>,
    /// Whether the condition hangs on the policy.
    of_policy: bool,
}

impl Ready {
    fn of(rule: &'static Rule, site: &'static Site, steps: Vec<Step>, resolver: &mut Resolver) -> Result<Self, RuleError> {
        let when = predicate::test(&site.when, &steps, resolver)?;
        let allow = site.allow.map(|term| predicate::test(&Cond::Text(term), &steps, resolver)).transpose()?;
        Ok(Self {
            rule,
            at: site.at,
            field: site.field,
            of_policy: when.is_of_policy(),
            when,
            message: predicate::text(site.message, &steps)?,
            help: predicate::text(site.help, &steps)?,
            allow: allow.and_then(|test| if let Test::Text(place) = test { Some(place) } else { None }),
            steps,
        })
    }
}

/// Places by the steps that lead to them.
#[derive(Debug, Default)]
struct Node {
    members: Vec<(&'static str, Node)>,
    items: Option<Box<Node>>,
    entries: Option<Box<Node>>,
    here: Vec<usize>,
}

/// Every site of every rule, ready.
#[derive(Debug)]
pub struct Program {
    sites: Vec<(On, Ready)>,
    roots: Vec<(On, Node)>,
    /// How many answers hold for a whole object.
    answers: usize,
}

impl Program {
    fn of(rules: &'static [Rule]) -> Result<Self, RuleError> {
        let mut program = Self { sites: vec![], roots: On::ALL.iter().map(|on| (*on, Node::default())).collect(), answers: 0 };
        let mut resolver = Resolver::default();
        for rule in rules {
            for site in rule.sites {
                for steps in forms(site.at) {
                    let index = program.sites.len();
                    if let Some((_, root)) = program.roots.iter_mut().find(|(on, _)| *on == site.on) {
                        root.put(&steps, index);
                    }
                    program.sites.push((site.on, Ready::of(rule, site, steps, &mut resolver)?));
                }
            }
        }
        program.answers = resolver.slots;
        Ok(program)
    }

    /// The sites of one kind of object.
    pub fn sites(&self, on: On) -> impl Iterator<Item = &Ready> {
        self.sites.iter().filter(move |(of, _)| *of == on).map(|(_, site)| site)
    }

    /// Visits every place of the object that some rule looks at.
    pub(super) fn walk<'a>(&self, subject: &Subject<'a>, hit: &mut dyn FnMut(&Ready, &Scene<'a, '_>)) {
        let Some((_, root)) = self.roots.iter().find(|(on, _)| *on == subject.on) else { return };
        let mut items = Vec::with_capacity(8);
        let answers = Answers::none_of(self.answers);
        let mut found =
            |site: usize, this, items: &[Item<'a>]| hit(&self.sites[site].1, &Scene { subject, this, items, answers: &answers });
        match subject.root {
            Root::Object(object, _) => root.walk(object, &mut items, &mut found),
            Root::Spec(spec, _) => {
                if let Some(node) = root.member("spec") {
                    node.walk(spec, &mut items, &mut found);
                }
            }
            Root::Piece(value, _, piece) => {
                let node = root.member("spec").and_then(|spec| spec.member(piece.list())).and_then(|list| list.items.as_ref());
                if let Some(node) = node {
                    items.push(Item { value, index: 0, key: None });
                    node.walk(value, &mut items, &mut found);
                }
            }
        }
    }
}

impl Node {
    fn member(&self, name: &str) -> Option<&Self> {
        self.members.iter().find(|(member, _)| *member == name).map(|(_, node)| node)
    }

    fn put(&mut self, steps: &[Step], site: usize) {
        let Some((step, rest)) = steps.split_first() else { return self.here.push(site) };
        let next = match step {
            Step::Member(name) => {
                let at = self.members.iter().position(|(member, _)| member == name).unwrap_or_else(|| {
                    self.members.push((name, Self::default()));
                    self.members.len() - 1
                });
                &mut self.members[at].1
            }
            Step::Items(_) => self.items.get_or_insert_default(),
            Step::Members => self.entries.get_or_insert_default(),
        };
        next.put(rest, site);
    }

    fn walk<'a>(&self, value: &'a Value<'a>, items: &mut Vec<Item<'a>>, hit: &mut dyn FnMut(usize, &'a Value<'a>, &[Item<'a>])) {
        for site in &self.here {
            hit(*site, value, items);
        }
        for (name, node) in &self.members {
            if let Some(value) = value.member(name) {
                node.walk(value, items, hit);
            }
        }
        let lists = [(Step::Items(""), &self.items), (Step::Members, &self.entries)];
        for (step, node) in lists {
            let Some(node) = node else { continue };
            enter(value, step, items, &mut |value, items| {
                if !value.is_null() {
                    node.walk(value, items, hit);
                }
            });
        }
    }
}

/// Every rule, ready to be asked.
///
/// # Panics
/// Never: that every rule can be resolved is shown by a test.
#[must_use]
pub fn program() -> &'static Program {
    static PROGRAM: LazyLock<Program> =
        LazyLock::new(|| Program::of(RULES).expect("every rule here can be resolved, which a test shows"));
    &PROGRAM
}

/// The path, the message and the help of a finding.
pub(super) fn told(site: &Ready, scene: &Scene<'_, '_>, workloads: &Workloads) -> (String, String, String) {
    // A container of some kinds has no name: its place has to do.
    let unnamed = |depth: usize| {
        let entered = site.steps.iter().enumerate().filter(|(_, step)| step.is_entry()).nth(depth);
        let steps = &site.steps[..entered.map_or(0, |(at, _)| at + 1)];
        let path = scene.subject.root.path(steps, scene.items, "");
        path.rsplit_once('.').map_or(path.as_str(), |(_, last)| last).to_owned()
    };
    (
        scene.subject.root.path(&site.steps, scene.items, site.field),
        predicate::write(&site.message, scene, workloads, &unnamed),
        predicate::write(&site.help, scene, workloads, &unnamed),
    )
}

impl Ready {
    /// Whether the rule is broken at a place under a policy; `before` is the answer under
    /// another policy, which holds where it hangs on none.
    pub(super) fn is_broken(&self, scene: &Scene<'_, '_>, workloads: &Workloads, before: Option<bool>) -> bool {
        match before {
            Some(before) if !self.of_policy => before,
            _ => self.when.holds(scene, workloads),
        }
    }

    /// What a policy's `allow` is compared with.
    pub(super) fn allowable<'a>(&self, scene: &Scene<'a, '_>) -> Option<&'a str> {
        self.allow.as_ref().map(|place| place.text(scene))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_can_be_resolved() {
        let program = Program::of(RULES).unwrap();
        assert!(program.sites.len() >= RULES.iter().map(|rule| rule.sites.len()).sum());
    }

    #[test]
    fn a_form_with_containers_is_three_forms() {
        let all = forms("spec.C[].env[].value");
        assert_eq!(all.len(), 3);
        let expected = [
            Step::Member("spec"),
            Step::Member("containers"),
            Step::Items("container"),
            Step::Member("env"),
            Step::Items("env"),
            Step::Member("value"),
        ];
        assert_eq!(all[1], expected);
        assert_eq!(forms("parameters{}"), [[Step::Member("parameters"), Step::Members]]);
        assert_eq!(forms(""), [[]]);
    }
}
