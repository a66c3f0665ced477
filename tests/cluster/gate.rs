//! A gate between the controller and the API server. It lets everything through, but for the
//! write of a task at which it was told to stop; it knows every token that came through it.
//!
//! It speaks plain HTTP to the controller and shows the controller's own token to the API
//! server, so that what the controller may do stays as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::task::JoinHandle;

use crate::bed::mandate::NAMESPACE;
use crate::bed::{self, Bed};
use crate::place::until;

/// What is wrong with one write of a task.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which of its writes, counted from one.
    pub write: usize,
    pub when: When,
    pub then: Then,
}

/// On which side of the API server a write is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The API server never hears of it.
    Before,
    /// The API server has done it, and its answer is lost.
    After,
}

/// What the controller hears instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing, of this write and of every later one of the task.
    Silence,
    /// That the API server is not available, once.
    Error,
}

/// A token, and whom it is for.
#[derive(Clone, Debug)]
pub struct Token {
    token: String,
    audiences: Vec<String>,
}

/// A gate that is open for as long as it lives.
pub struct Gate {
    /// For a controller that is to go through the gate.
    pub kubeconfig: PathBuf,
    passage: Arc<Passage>,
    serves: JoinHandle<()>,
}

/// What the gate knows, and its way to the API server.
struct Passage {
    api: Client,
    known: Mutex<Known>,
}

/// What becomes of a request.
enum Course {
    Through,
    Faulty(Fault),
    NeverAnswered,
}

#[derive(Default)]
struct Known {
    shut: bool,
    faults: BTreeMap<String, Fault>,
    /// What was written of each task that is watched.
    writes: BTreeMap<String, Vec<String>>,
    /// How many faults have happened.
    happened: usize,
    tokens: Vec<Token>,
}

impl Gate {
    /// Opens a gate to this bed.
    pub async fn open(bed: &Bed) -> Result<Self> {
        let token = bed.service_account_token(NAMESPACE, "mandate-controller").await?;
        let passage = Arc::new(Passage { api: bed.token_client(&token)?, known: Mutex::default() });
        let [port] = bed::free_ports()?;
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
        let router = Router::new().fallback(pass).with_state(passage.clone());
        let serves = tokio::spawn(async move { axum::serve(listener, router).await.unwrap_or_default() });
        let kubeconfig = bed.dir().join(format!("gate-{port}.kubeconfig"));
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: gate, users: [{{name: gate, user: {{}}}}], \
             clusters: [{{name: gate, cluster: {{server: 'http://127.0.0.1:{port}'}}}}], \
             contexts: [{{name: gate, context: {{cluster: gate, user: gate}}}}]}}"
        );
        std::fs::write(&kubeconfig, text)?;
        Ok(Self { kubeconfig, passage, serves })
    }

    /// From now on the writes of these tasks are counted, and one of each is faulty.
    pub fn arm(&self, faults: impl IntoIterator<Item = (String, Fault)>) {
        let mut known = self.passage.known();
        known.faults = faults.into_iter().collect();
        known.writes = known.faults.keys().map(|task| (task.clone(), vec![])).collect();
        known.happened = 0;
    }

    /// From now on the writes of this task are counted.
    pub fn watch(&self, task: &str) {
        self.passage.known().writes.insert(task.to_owned(), vec![]);
    }

    /// What was written of a task since, such as `POST roles`.
    pub fn writes(&self, task: &str) -> Vec<String> {
        self.passage.known().writes.get(task).cloned().unwrap_or_default()
    }

    /// Waits until the fault of every task has happened.
    pub async fn all_happened(&self) -> Result<()> {
        let all = self.passage.known().faults.len();
        until(&format!("{all} writes to be stopped"), || async { (self.passage.known().happened == all).then_some(()) }).await
    }

    /// Everything goes through again.
    pub fn disarm(&self) {
        self.arm([]);
    }

    /// From now on nothing goes through and nothing is answered.
    pub fn shut(&self) {
        self.passage.known().shut = true;
    }

    /// Every token that was issued through the gate, also those whose answer was lost.
    pub fn tokens(&self) -> Vec<Token> {
        self.passage.known().tokens.clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.serves.abort();
    }
}

impl Token {
    /// Whether the API server still says that the token is good.
    pub async fn works(&self, admin: &Client) -> Result<bool> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: self.token.clone(), audiences: Some(self.audiences.clone()) },
            ..TokenReview::default()
        };
        let answer = Api::<TokenReview>::all(admin.clone()).create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.authenticated == Some(true)))
    }
}

impl Passage {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a write, and says what becomes of it.
    fn course(&self, method: &Method, path: &str, body: &[u8]) -> Course {
        let Some(written) = written(method, path) else { return Course::Through };
        let text = format!("{path} {}", String::from_utf8_lossy(body));
        let known = &mut *self.known();
        let Some((task, writes)) = known.writes.iter_mut().find(|(task, _)| text.contains(task.as_str())) else {
            return Course::Through;
        };
        writes.push(written);
        match known.faults.get(task) {
            Some(fault) if writes.len() == fault.write => Course::Faulty(*fault),
            // What was under way beside the write that was stopped comes no further either.
            Some(fault) if writes.len() > fault.write && fault.then == Then::Silence => Course::NeverAnswered,
            _ => Course::Through,
        }
    }

    /// What the controller hears of a faulty write.
    async fn happen(&self, fault: Fault) -> Response {
        self.known().happened += 1;
        match fault.then {
            Then::Silence => std::future::pending().await,
            Then::Error => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }

    async fn forward(&self, request: axum::http::Request<kube::client::Body>) -> Response {
        match self.api.send(request).await {
            Ok(answer) => answer.map(Body::new),
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }

    /// Keeps the token that an answer holds, and gives the answer on.
    async fn keep_token(&self, answer: Response) -> Response {
        let (head, body) = answer.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
        if let Ok(TokenRequest { status: Some(status), spec: Some(spec), .. }) = serde_json::from_slice(&bytes) {
            let token = Token { token: status.token.unwrap_or_default(), audiences: spec.audiences.unwrap_or_default() };
            self.known().tokens.push(token);
        }
        Response::from_parts(head, Body::from(bytes))
    }
}

/// What a request writes; none where it changes nothing.
fn written(method: &Method, path: &str) -> Option<String> {
    if matches!(*method, Method::GET | Method::HEAD) || path.starts_with("/apis/authorization.k8s.io/") {
        return None;
    }
    let mut parts = path.split("/namespaces/").nth(1)?.split('/').skip(1);
    let resource = parts.next()?;
    let subresource = parts.nth(1).map(|name| format!("/{name}")).unwrap_or_default();
    Some(format!("{method} {resource}{subresource}"))
}

async fn pass(State(passage): State<Arc<Passage>>, request: Request) -> Response {
    if passage.known().shut {
        std::future::pending::<()>().await;
    }
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_else(|_| Bytes::new());
    let course = passage.course(&head.method, head.uri.path(), &body);
    match course {
        Course::NeverAnswered => std::future::pending().await,
        Course::Faulty(fault) if fault.when == When::Before => return passage.happen(fault).await,
        Course::Faulty(_) | Course::Through => {}
    }
    let mints = head.uri.path().ends_with("/token");
    let mut onward = axum::http::Request::builder().method(head.method).uri(head.uri);
    for name in [header::CONTENT_TYPE, header::ACCEPT, header::USER_AGENT] {
        if let Some(value) = head.headers.get(&name) {
            onward = onward.header(name, value);
        }
    }
    let Ok(onward) = onward.body(kube::client::Body::from(body.to_vec())) else { return StatusCode::BAD_REQUEST.into_response() };
    let mut answer = passage.forward(onward).await;
    if mints {
        answer = passage.keep_token(answer).await;
    }
    match course {
        Course::Faulty(fault) => passage.happen(fault).await,
        Course::NeverAnswered | Course::Through => answer,
    }
}
