use std::collections::HashMap;
use std::path::PathBuf;

use envoy_types::ext_authz::v3::pb::HttpResponse;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::attribute_context;
use envoy_types::pb::google::protobuf::value::Kind;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::Deserialize as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::api::{AgentPolicy, AgentTask, Phase, TaskScope, ToolServer};
use crate::audit::{Log, Settings};
use crate::authorizer::recall::Past;
use crate::authorizer::state::State;
use crate::authorizer::trust::{Trust, TrustFile};
use crate::decide::authorize::snapshot::{Compiler, ServerSource, Sources, Written};
use crate::decide::authorize::{Standing, Subject};
use crate::decide::world::Loaded;
use crate::hex::hex;

/// The example, and one rule more for each way to say no.
const MORE: &str = "
---
kind: AgentPolicy
metadata: {name: more, namespace: finance}
spec:
  owner: {team: t, contact: c}
  rules:
  - {name: ask, requireApproval: {approvers: ['group:leads']}, match: {tools: [ledger/read], resources: ['invoice-7*']}}
  - {name: slowly, limit: {count: 1, per: 1m}, match: {tools: [ledger/search]}}
";

fn sources() -> (Sources, Vec<AgentTask>) {
    let (mut sources, mut tasks) = (Sources::default(), vec![]);
    let here = sources.namespaces.entry("finance".into()).or_default();
    let text = format!("{}{MORE}", include_str!("../../../../examples/gateway/ledger.yaml"));
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = Value::deserialize(document).unwrap();
        let name = value["metadata"]["name"].as_str().unwrap().to_owned();
        let version: Arc<str> = value.to_string().into();
        match value["kind"].as_str().unwrap() {
            "ToolServer" => {
                let ToolServer { spec, .. } = serde_json::from_value(value).unwrap();
                let spec = Arc::new(Loaded::Readable(ServerSource { spec, stopped: vec![] }));
                here.servers.insert(name, Written { version, spec });
            }
            "TaskScope" => {
                let TaskScope { spec, .. } = serde_json::from_value(value).unwrap();
                here.scopes.insert(name, Written { version, spec: Arc::new(Loaded::Readable(spec)) });
            }
            "AgentPolicy" => {
                let AgentPolicy { spec, .. } = serde_json::from_value(value).unwrap();
                here.policies.insert(name, Written { version, spec: Arc::new(Loaded::Readable(spec)) });
            }
            "AgentTask" => tasks.push(serde_json::from_value(value).unwrap()),
            _ => {}
        }
    }
    (sources, tasks)
}

/// A door, and what opens it.
struct Scene {
    door: Door,
    key: KeyPair,
    audit: PathBuf,
}

const GATEWAY: &str = "the-gateways-own-token";

fn scene(name: &str) -> Scene {
    let audit = std::env::temp_dir().join(format!("mandate-envoy-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&audit);
    let key = KeyPair::generate().unwrap();
    let state = Arc::new(State::default());
    let (sources, tasks) = sources();
    let (snapshot, trouble) = Compiler::default().compile(&sources);
    assert!(trouble.is_empty(), "{trouble:?}");
    state.replace(snapshot);
    state.is_current(Timestamp::now());
    for task in tasks {
        let own = Subject::of(&task, "finance", task.metadata.name.as_deref().unwrap());
        let deadline = Timestamp::now() + SignedDuration::from_hours(1);
        state.put(Subject { uid: "u".into(), phase: Phase::Active, standing: Standing::Good, deadline, ..own });
    }
    let digest = hex(&Sha256::digest(GATEWAY));
    let point = key.der_bytes();
    let half = |at: usize| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&point[at..at + 32])
    };
    let trust: TrustFile = serde_json::from_value(json!({
        "enforcementPoints": [{"name": "gateway", "tokenSha256": digest}],
        "jwks": {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": half(1), "y": half(33)}]},
    }))
    .unwrap();
    let log = Log::open(&Settings::new(&audit)).unwrap();
    let authorizer = Authorizer::new(state, Trust::of(trust, None).unwrap(), Some(log));
    Scene { door: Door { authorizer: Arc::new(authorizer) }, key, audit }
}

impl Scene {
    fn token(&self) -> String {
        let exp = Timestamp::now().as_second() + 60;
        let claims = json!({"sub": "task:finance/october", "task_uid": "u", "aud": "https://ledger.finance.svc", "exp": exp});
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &EncodingKey::from_ec_der(&self.key.serialize_der()))
            .unwrap()
    }

    /// A request as Envoy passes it on.
    fn http(&self, body: &Value) -> HttpRequest {
        let body = body.to_string();
        let headers = [
            ("authorization", format!("Bearer {}", self.token())),
            ("content-type", "application/json".to_owned()),
            ("content-length", body.len().to_string()),
            ("x-envoy-auth-partial-body", "false".to_owned()),
        ];
        HttpRequest {
            method: "POST".into(),
            path: "/mcp".into(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            size: i64::try_from(body.len()).unwrap(),
            raw_body: body.into_bytes(),
            ..HttpRequest::default()
        }
    }

    async fn ask(&self, http: HttpRequest, extensions: &[(&str, &str)], token: Option<&str>) -> Result<Answered, Status> {
        let extensions = extensions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let attributes = AttributeContext {
            request: Some(attribute_context::Request { http: Some(http), ..Default::default() }),
            context_extensions: extensions.collect(),
            ..Default::default()
        };
        let mut request = tonic::Request::new(CheckRequest { attributes: Some(attributes) });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Ok(answered(self.door.check(request).await?.into_inner()))
    }

    async fn call(&self, tool: &str, arguments: Value) -> Answered {
        self.ask(self.http(&call(tool, &arguments)), LEDGER, Some(GATEWAY)).await.unwrap()
    }
}

const LEDGER: &[(&str, &str)] = &[(SERVER, "finance/ledger")];

fn call(tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// An answer, as far as tests look at it.
#[derive(Debug, PartialEq)]
struct Answered {
    /// Code of gRPC: 0 passes the request on.
    code: i32,
    /// Status of HTTP for the client.
    status: i32,
    headers: BTreeMap<String, String>,
    removed: Vec<String>,
    body: Value,
    metadata: BTreeMap<String, String>,
}

fn answered(response: CheckResponse) -> Answered {
    let fields = response.dynamic_metadata.unwrap_or_default().fields.into_iter();
    let metadata = fields.filter_map(|(name, value)| match value.kind {
        Some(Kind::StringValue(text)) => Some((name, text)),
        _ => None,
    });
    let mut answered = Answered {
        code: response.status.unwrap().code,
        status: 200,
        headers: BTreeMap::new(),
        removed: vec![],
        body: Value::Null,
        metadata: metadata.collect(),
    };
    let headers = match response.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => {
            answered.removed = ok.headers_to_remove;
            ok.headers
        }
        HttpResponse::DeniedResponse(denied) => {
            answered.status = denied.status.unwrap().code;
            answered.body = serde_json::from_str(&denied.body).unwrap();
            denied.headers
        }
        HttpResponse::ErrorResponse(_) => panic!("an error is no answer"),
    };
    answered.headers = headers.into_iter().filter_map(|option| option.header).map(|header| (header.key, header.value)).collect();
    answered
}

#[tokio::test]
async fn a_permitted_call_goes_on_without_the_agents_token_and_can_be_found_again() {
    let scene = scene("permit");
    let answer = scene.call("search", json!({"text": "x", "rows": 5})).await;
    assert_eq!((answer.code, &answer.removed[..]), (0, &["authorization".to_owned()][..]));
    assert_eq!(answer.headers["x-mandate-decision"], answer.metadata["decision_id"]);
    let metadata = ["outcome", "server", "method", "tool", "task", "agent"].map(|name| answer.metadata[name].as_str());
    assert_eq!(
        metadata,
        ["permit", "finance/ledger", "tools/call", "finance/ledger/search", "finance/october", "finance/invoice-bot"]
    );
    // What is stripped is for the gateway's operator to say.
    for (said, stripped) in [("", &[][..]), ("Authorization, Cookie", &["authorization", "cookie"])] {
        let http = scene.http(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
        let answer = scene.ask(http, &[(SERVER, "finance/ledger"), (STRIP_HEADERS, said)], Some(GATEWAY)).await.unwrap();
        assert_eq!((answer.code, answer.removed), (0, stripped.iter().map(ToString::to_string).collect()));
    }
}

#[tokio::test]
async fn a_refusal_says_what_the_agent_may_do_next() {
    let scene = scene("next");
    assert_eq!(scene.call("search", json!({"text": "x", "rows": 5})).await.code, 0);
    for (tool, arguments, code, next) in [
        ("search", json!({"text": "x", "rows": 5}), "LimitReached", "retry"),
        ("read", json!({"id": "invoice-7"}), "ApprovalRequired", "request-approval"),
        ("export", json!({"to": "x"}), "RuleDenied", "none"),
        ("close", json!({}), "OutOfScope", "none"),
        ("resources/read", json!({}), "UnknownTool", "none"),
    ] {
        let answer = scene.call(tool, arguments).await;
        assert_eq!((answer.code, answer.status, &answer.body["id"]), (7, 200, &json!("a")), "{tool}");
        assert_eq!(answer.headers["content-type"], "application/json");
        let error = &answer.body["error"];
        let found = (&error["code"], &error["data"]["reasons"][0]["code"], &error["data"]["nextAction"]);
        assert_eq!(found, (&json!(-32001), &json!(code), &json!(next)), "{tool}");
        assert_eq!(error["data"]["decisionId"], answer.metadata["decision_id"].as_str());
        assert!(error["message"].as_str().unwrap().len() > 10, "{error}");
    }
}

#[tokio::test]
async fn a_gateway_that_is_not_known_or_says_not_where_a_route_leads_gets_no_decision() {
    let scene = scene("gateway");
    let http = || scene.http(&call("search", &json!({"text": "x", "rows": 5})));
    for token in [None, Some("another"), Some("")] {
        let refused = scene.ask(http(), LEDGER, token).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{token:?}");
    }
    for server in [&[][..], &[(SERVER, "ledger")], &[(SERVER, "/ledger")], &[(SERVER, "finance/ledger/search")]] {
        let refused = scene.ask(http(), server, Some(GATEWAY)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{server:?}");
    }
    // The client names another one.
    let mut named = http();
    named.headers.insert(SERVER.to_owned(), "finance/ledger".to_owned());
    let answer = scene.ask(named, &[(SERVER, "finance/none")], Some(GATEWAY)).await.unwrap();
    // Its audience is not known either, so the token is for somebody else.
    assert_eq!((answer.code, answer.status), (16, 401));
}

#[tokio::test]
async fn an_agent_without_a_valid_token_is_pointed_to_where_it_gets_one() {
    let scene = scene("token");
    let mut http = scene.http(&call("search", &json!({})));
    http.headers.remove("authorization");
    let url = "https://ledger.finance.svc/.well-known/oauth-protected-resource";
    let route = [(SERVER, "finance/ledger"), (RESOURCE_METADATA, url)];
    let answer = scene.ask(http.clone(), &route, Some(GATEWAY)).await.unwrap();
    assert_eq!((answer.code, answer.status), (16, 401));
    assert_eq!(answer.headers["www-authenticate"], format!("Bearer realm=\"mandate\", resource_metadata=\"{url}\""));
    // Two of them are none.
    let token = scene.token();
    http.headers.insert("authorization".to_owned(), format!("Bearer {token},Bearer {token}"));
    let answer = scene.ask(http, LEDGER, Some(GATEWAY)).await.unwrap();
    assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"mandate\", error=\"invalid_token\"");
}

#[tokio::test]
async fn a_body_that_the_gateway_has_cut_or_rewritten_is_refused() {
    let scene = scene("body");
    let http = scene.http(&call("search", &json!({"text": "x", "rows": 5})));
    let as_text = HttpRequest { body: String::from_utf8(http.raw_body.clone()).unwrap(), raw_body: vec![], ..http.clone() };
    let cut = HttpRequest { size: http.size + 1, ..http.clone() };
    for (http, why) in [(as_text, "must set `pack_as_bytes`"), (cut, "only a part of the body")] {
        let answer = scene.ask(http, LEDGER, Some(GATEWAY)).await.unwrap();
        assert_eq!((answer.code, answer.status), (7, 400));
        assert!(answer.body["error"]["message"].as_str().unwrap().contains(why), "{answer:?}");
    }
    // Headers may come in the other of Envoy's two forms, also twice.
    let list = |http: &HttpRequest| -> Vec<HeaderValue> {
        let header = |(key, value): (&String, &String)| HeaderValue {
            key: key.clone(),
            raw_value: value.clone().into_bytes(),
            ..HeaderValue::default()
        };
        http.headers.iter().map(header).collect()
    };
    let raw = |headers: Vec<HeaderValue>| HttpRequest {
        headers: HashMap::new(),
        header_map: Some(HeaderMap { headers }),
        ..http.clone()
    };
    let mut headers = list(&http);
    assert_eq!(scene.ask(raw(headers.clone()), LEDGER, Some(GATEWAY)).await.unwrap().code, 0);
    for value in ["search", "export"] {
        headers.push(HeaderValue { key: "Mcp-Name".into(), raw_value: value.into(), ..HeaderValue::default() });
    }
    let answer = scene.ask(raw(headers), LEDGER, Some(GATEWAY)).await.unwrap();
    assert_eq!(answer.body["error"]["data"]["reasons"][0]["code"], "HeaderMismatch", "{answer:?}");
}

#[tokio::test]
async fn greetings_and_refusals_are_recorded_and_count_as_no_call() {
    let scene = scene("record");
    for method in ["initialize", "tools/list", "ping"] {
        let http = scene.http(&json!({"jsonrpc": "2.0", "id": 1, "method": method}));
        assert_eq!(scene.ask(http, LEDGER, Some(GATEWAY)).await.unwrap().code, 0, "{method}");
    }
    let unknown = scene.http(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/execute"}));
    assert_eq!(scene.ask(unknown, LEDGER, Some(GATEWAY)).await.unwrap().code, 7);
    scene.door.authorizer.log.as_ref().unwrap().clone().close().await.unwrap();
    let text: String = std::fs::read_dir(&scene.audit)
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap()).into_owned())
        .collect();
    for recorded in ["\"tool\":\"initialize\"", "\"tool\":\"tools/list\"", "\"tool\":\"tools/execute\"", "UnknownMethod"] {
        assert!(text.contains(recorded), "{recorded}");
    }
    assert!(!text.contains(&scene.token()[..40]), "a token is in the log");
    // As a restarted authorizer reads it.
    let state = State::after(Past::read(&scene.audit, Timestamp::now()).unwrap());
    let (_, tasks) = sources();
    let own = Subject::of(&tasks[0], "finance", "october");
    state.put(Subject { uid: "u".into(), phase: Phase::Active, ..own });
    let task = state.subjects(|_| true).remove(0);
    assert!(!task.history().called("finance/ledger", None) && !task.history().called("finance/ledger/tools/list", None));
    let _ = std::fs::remove_dir_all(&scene.audit);
}
