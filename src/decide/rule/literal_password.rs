//! `literal-password`: something that is called a password, a token or a key is written in the pod itself.

use std::sync::LazyLock;

use regex::Regex;

use super::hidden_credential::commands;
use super::literal_credential::KNOWN;
use super::{Code, Found, Level, Rule};
use crate::decide::json::Read as _;
use crate::decide::literal;
use crate::decide::pod::CONTAINER_LISTS;
use crate::decide::predicate::Cond;
use crate::decide::site::{Site, Subject};

/// something that is called a password, a token or a key is written in the pod itself.
pub const RULE: Rule = Rule {
    id: "literal-password",
    level: Level::Restricted,
    what: "something that is called a password, a token or a key is written in the pod itself.",
    why: "Whoever may read pods or their templates reads it, and so does everything that keeps copies of them: Git, backups, audit logs, dashboards. It is in none of the places where Secrets are guarded.",
    fix: "Change it, since it has been seen, and issue a credential for the task with its TaskScope. What only sounds like a password a policy can allow by its name.",
    references: &["https://kubernetes.io/docs/concepts/security/secrets-good-practices/"],
    since: "0.1.0",
    allows: "names of environment variables, headers, attributes and options, and flags by their beginning, such as `--token=*`",
    sites: &[
        named(
            "spec.C[].env[].value",
            IN_ENV,
            "env.name",
            "environment variable `{env.name}` of container `{container.name}` holds a password, token or key in plain text",
        ),
        flag("spec.C[].command[]", "the command of container `{container.name}` holds a password, token or key in plain text"),
        flag("spec.C[].args[]", "an argument of container `{container.name}` holds a password, token or key in plain text"),
        flag("spec.C[].lifecycle.postStart.exec.command[]", said!("postStart hook")),
        flag("spec.C[].lifecycle.preStop.exec.command[]", said!("preStop hook")),
        flag("spec.C[].livenessProbe.exec.command[]", said!("livenessProbe")),
        flag("spec.C[].readinessProbe.exec.command[]", said!("readinessProbe")),
        flag("spec.C[].startupProbe.exec.command[]", said!("startupProbe")),
        in_header("spec.C[].lifecycle.postStart.httpGet.httpHeaders[].value", said_in_header!("postStart hook")),
        in_header("spec.C[].lifecycle.preStop.httpGet.httpHeaders[].value", said_in_header!("preStop hook")),
        in_header("spec.C[].livenessProbe.httpGet.httpHeaders[].value", said_in_header!("livenessProbe")),
        in_header("spec.C[].readinessProbe.httpGet.httpHeaders[].value", said_in_header!("readinessProbe")),
        in_header("spec.C[].startupProbe.httpGet.httpHeaders[].value", said_in_header!("startupProbe")),
        named(
            "spec.volumes[].csi.volumeAttributes{}",
            IN_MAP,
            "key",
            "attribute `{key}` of volume `{volume.name}` holds a password, token or key in plain text",
        ),
        named(
            "spec.volumes[].flexVolume.options{}",
            IN_MAP,
            "key",
            "option `{key}` of volume `{volume.name}` holds a password, token or key in plain text",
        ),
    ],
    code: Some(Code { look, lacks: "flags whose value is the next argument, and the single words of a script" }),
};

macro_rules! said {
    ($what:literal) => {
        concat!("the ", $what, " of container `{container.name}` holds a password, token or key in plain text")
    };
}
use said;

macro_rules! said_in_header {
    ($what:literal) => {
        concat!(
            "the ",
            $what,
            " of container `{container.name}` holds a password, token or key in plain text in its header `{header.name}`"
        )
    };
}
use said_in_header;

const HELP: &str = "change it, since it has been seen, label the pod `mandate.dev/task: <task>` and let its TaskScope issue a short-lived credential";

const fn named(at: &'static str, when: Cond, name: &'static str, message: &'static str) -> Site {
    Site { at, when, message, help: HELP, allow: Some(name), ..Site::POD }
}

const fn in_header(at: &'static str, message: &'static str) -> Site {
    named(at, IN_HEADER, "header.name", message)
}

const fn flag(at: &'static str, message: &'static str) -> Site {
    named(at, IN_FLAG, "this", message)
}

// What a name must end with. `DB_PASSWORD` and `dbPassword` do; `PASSWORD_FILE`, `TOKEN_URL` and
// `API_KEY_NAME` do not.
macro_rules! password_names {
    () => {
        r"(?:password|passwd|passphrase|requirepass|masterauth|[_.-]pwd|(?:^|[_.-])pass)[_-]?[0-9]{0,2}"
    };
}
macro_rules! key_names {
    () => {
        concat!(
            r"(?:",
            r"(?:api|access|account|auth|encryption|master|private|secret|shared|signing|storage)[_.-]?key(?:[_-]?base)?",
            r"|(?:api|app|auth|client|consumer|cookie|encryption|hmac|http|jwt|oauth|session|shared|signing|token|webhook)[_.-]?secret|^secret",
            r"|token",
            r")[_-]?[0-9]{0,2}",
        )
    };
}

// What no password is: `$` begins a reference, braces and angles are filled in later.
macro_rules! never {
    ($start:literal) => {
        concat!(
            // Filled in later, or not at all.
            r"[$<>{}]|%\(|\*\*\*|\.\.\.|xxx|", $start, r"(?:@.+@|%.+%|__.+__|\[.+\]|(?-i:[A-Z][0-9A-Z]*(?:[_ ][0-9A-Z]+)+))$",
            r"|change[_ -]?(?:me|it|this)|replace[_ -]?(?:me|with|this)|your[_ -]|placeholder|redacted|masked|fixme|insert[_ -]|example|dummy|not[_ -]?(?:used|set|needed|required|a[_ -]real)",
            // A file, a place elsewhere, a secret that is named and not written.
            r"|", $start, r"(?:todo|sample|your|\.{1,2}/|~/|[a-z]:\\|file:|[a-z][0-9a-z+.-]*://|/[0-9a-z._-]{1,32}$|/[0-9a-z._-]+(?:/[0-9a-z._@-]+)+/?$)",
            r"|", $start, r"(?:>>)?(?:vault|akeyless|awssm|gcpsm|ssm|arn|ref\+[a-z]+|secretref|azurekeyvault|env|prompt|aws|gcp|k8s)[:+]|@azurekeyvault|", $start, r"projects/[^/]+/secrets/",
            // The name of a Secret or of a key in one.
            r"|", $start, r"[0-9a-z]+(?:[-._/][0-9a-z]+)*[-._/](?:secrets?|passwords?|passwd|tokens?|keys?|credentials?|creds?|tls|certs?|auth|name|file|path)$",
        )
    };
}
// Words that tell how, and not with what.
macro_rules! words {
    () => {
        r"(?:true|false|yes|no|on|off|none|null|nil|undefined|unset|empty|default|disabled?|enabled?|required?|optional|auto|always|never|unused|n/?a|anonymous|inherit|prompt|stdin|basic|bearer|oauth2?|jwt|oidc|saml|ldap|kerberos|md5|plain|trust|scram[0-9a-z-]*|opaque)"
    };
}

/// Names of passwords. Short ones are passwords as well.
const PASSWORD_NAME: &str = concat!(r"(?i)", password_names!(), "$");
const PASSWORD_NEVER: &str = concat!(r"(?i)^(?:.{0,2}|[0-9.]{1,5}|", words!(), r")$|", never!("^"));

/// Names of tokens and keys, which are longer than any setting.
const KEY_NAME: &str = concat!(r"(?i)", key_names!(), "$");
/// Tokens that language models, parsers and lists have.
const NO_KEY_NAME: &str = r"(?i)(?:bos|cls|continuation|csrf|eos|image|initial[_.-]?cluster|mask|max|min|next|num|pad|page|per|sep|separator|special|stop|unk)[_.-]?token$|public[_.-]?access[_.-]?key$";
const KEY_NEVER: &str = concat!(
    r"(?i)^(?:.{0,7}|[0-9.,:_-]+|[0-9]+(?:ms|[smhd])|",
    words!(),
    r")$|",
    never!("^"),
    // Names of objects, of classes and of headers.
    r"|^[a-z]+(?:-[a-z]+)+$|^[a-z]+(?:\.[0-9a-z_]+)+\.[a-z][0-9a-z]*$|^x-[a-z-]+$",
);

macro_rules! plain {
    ($name:literal, $value:literal) => {
        Cond::Any(&[
            Cond::All(&[Cond::Matches($name, PASSWORD_NAME), Cond::Not(&Cond::Matches($value, PASSWORD_NEVER))]),
            Cond::All(&[
                Cond::Matches($name, KEY_NAME),
                Cond::Not(&Cond::Matches($name, NO_KEY_NAME)),
                Cond::Not(&Cond::Matches($value, KEY_NEVER)),
            ]),
        ])
    };
}

const IN_ENV: Cond = Cond::All(&[plain!("env.name", "this"), Cond::Not(&KNOWN)]);
const IN_MAP: Cond = Cond::All(&[plain!("key", "this"), Cond::Not(&KNOWN)]);
const IN_HEADER: Cond = Cond::All(&[
    Cond::Any(&[
        plain!("header.name", "this"),
        Cond::All(&[
            Cond::Matches("header.name", r"(?i)^(?:proxy-)?authorization$"),
            Cond::Not(&Cond::Matches("this", KEY_NEVER)),
        ]),
    ]),
    Cond::Not(&KNOWN),
    Cond::Not(&Cond::Matches("this", literal::HEADER)),
]);

/// A whole argument that is a flag or a variable with its value.
const IN_FLAG: Cond = Cond::All(&[
    Cond::Any(&[
        Cond::All(&[
            Cond::Matches("this", concat!(r"(?i)^-{0,2}[0-9a-z._-]*", password_names!(), r"=[^ \t\r\n]+$")),
            Cond::Not(&Cond::Matches("this", concat!(r"(?i)^[^=]*=(?:.{0,2}|[0-9.]{1,5}|", words!(), r")$|", never!("^[^=]*=")))),
        ]),
        Cond::All(&[
            Cond::Matches("this", concat!(r"(?i)^-{0,2}[0-9a-z._-]*", key_names!(), r"=[^ \t\r\n]+$")),
            Cond::Not(&Cond::Matches(
                "this",
                concat!(
                    r"(?i)^[^=]*=(?:.{0,7}|[0-9.,:_-]+|[0-9]+(?:ms|[smhd])|",
                    words!(),
                    r"|[a-z]+(?:-[a-z]+)+)$|",
                    never!("^[^=]*=")
                ),
            )),
        ]),
    ]),
    Cond::Not(&KNOWN),
]);

struct Patterns {
    password_name: Regex,
    password_never: Regex,
    key_name: Regex,
    no_key_name: Regex,
    key_never: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let compiled = |pattern| Regex::new(pattern).expect("it is a pattern of a condition, and a test shows that those are");
    Patterns {
        password_name: compiled(PASSWORD_NAME),
        password_never: compiled(PASSWORD_NEVER),
        key_name: compiled(KEY_NAME),
        no_key_name: compiled(NO_KEY_NAME),
        key_never: compiled(KEY_NEVER),
    }
});

/// Whether a value is a password in plain text by its name; the same as the condition above.
fn is_plain(name: &str, value: &str) -> bool {
    let Patterns { password_name, password_never, key_name, no_key_name, key_never } = &*PATTERNS;
    (password_name.is_match(name) && !password_never.is_match(value))
        || (key_name.is_match(name) && !no_key_name.is_match(name) && !key_never.is_match(value))
}

fn look(pod: &Subject<'_>, found: &mut Vec<Found>) {
    for list in CONTAINER_LISTS {
        for (c, container) in pod.spec().items(list).iter().enumerate() {
            let mut flag = "";
            for (tail, what, texts) in commands(container) {
                // The arguments go on where the command ends.
                flag = if tail == "args" { flag } else { "" };
                for (n, text) in texts.iter().enumerate() {
                    let text = text.as_str().unwrap_or_default();
                    let name = if text.contains(SPACE) {
                        in_script(text)
                    } else {
                        Some(flag).filter(|flag| !flag.is_empty() && !text.starts_with('-') && is_plain(flag, text))
                    };
                    if let Some(name) = name.filter(|_| !literal::is_known(text)) {
                        found.push(Found {
                            path: pod.spec_path(&format!("{list}[{c}].{tail}[{n}]")),
                            message: format!(
                                "{what} of container `{}` holds a password, token or key in plain text",
                                container.text("name")
                            ),
                            help: HELP.to_owned(),
                            allow: name.to_owned(),
                        });
                    }
                    flag = if is_flag(text) { text } else { "" };
                }
            }
        }
    }
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// Whether a word is a flag and nothing more.
fn is_flag(word: &str) -> bool {
    word.starts_with('-') && is_name(word.trim_start_matches('-'))
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// The flag or variable in a script that is given a password in plain text.
fn in_script(script: &str) -> Option<&str> {
    let ends_word = |c: char| SPACE.contains(&c) || matches!(c, ';' | '|' | '&');
    let mut flag = "";
    for word in script.split(ends_word).filter(|word| !word.is_empty()) {
        let word = word.trim_matches(QUOTES);
        if let Some((name, value)) = word.split_once('=') {
            let value = value.trim_matches(QUOTES);
            if is_name(name) && is_written(value) && is_plain(name, value) {
                return Some(name);
            }
        } else if !flag.is_empty()
            && is_written(word)
            && word.contains(|c: char| !c.is_ascii_alphabetic())
            && is_plain(flag, word)
        {
            // Not a word of a sentence that speaks of the flag.
            return Some(flag);
        }
        flag = if is_flag(word) { word } else { "" };
    }
    None
}

const QUOTES: [char; 2] = ['"', '\''];

/// Whether a word of a script stands for itself.
fn is_written(word: &str) -> bool {
    !word.starts_with('-') && !word.contains(['`', '(', ')', '*', '\\', '%', '"', '\'', '[', ']', '!', '^'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_of_real_manifests_are_told_apart() {
        for (name, value) in [
            ("POSTGRES_PASSWORD", "hunter2"),
            ("DB_PASS", "s3cr3t"),
            ("MYSQL_ROOT_PASSWORD", "12345678"),
            ("GF_SECURITY_ADMIN_PASSWORD", "admin"),
            ("spring.datasource.password", "postgres"),
            ("REDIS_PWD", "correct horse battery staple"),
            ("rootPassword", "minioadmin"),
            ("JWT_SECRET", "supersecretkey1"),
            ("AWS_SECRET_ACCESS_KEY", "0000000000/0000000000+0000000000/0000000"),
            ("API_KEY", "0123456789abcdef"),
            ("authToken", "Zm9vYmFyYmF6"),
            ("SECRET_KEY_BASE", "0123456789abcdef0123456789abcdef"),
            ("COOKIE_SECRET", "OQINaROshtE9TcZkNAm-5Zs2Pv3xaWytBmc5W7sPX7w="),
            ("--requirepass", "hunter2"),
        ] {
            assert!(is_plain(name, value), "{name} with {} letters", value.len());
        }
        for (name, value) in [
            ("ALLOW_EMPTY_PASSWORD", "yes"),
            ("MYSQL_RANDOM_ROOT_PASSWORD", "1"),
            ("POSTGRES_PASSWORD", ""),
            ("POSTGRES_PASSWORD", "$(DB_PASSWORD)"),
            ("POSTGRES_PASSWORD", "${DB_PASSWORD}"),
            ("POSTGRES_PASSWORD", "{{ .Values.password }}"),
            ("POSTGRES_PASSWORD", "<password>"),
            ("POSTGRES_PASSWORD", "change-me"),
            ("POSTGRES_PASSWORD", "yourpassword"),
            ("GOOGLE_API_KEY", "GOOGLE_API_KEY_VAL"),
            ("--initial-cluster-token", "etcd-cluster-1"),
            ("POSTGRES_PASSWORD", "vault:secret/data/db#password"),
            ("POSTGRES_PASSWORD", "op://vault/db/password"),
            ("POSTGRES_PASSWORD", "postgres-password"),
            ("POSTGRES_PASSWORD_FILE", "/run/secrets/postgres"),
            ("POSTGRES_HOST_AUTH_METHOD", "trust"),
            ("POSTGRES_INITDB_ARGS", "--auth-host=scram-sha-256"),
            ("WORDPRESS_DB_PASSWORD", "/opt/bitnami/secrets/db"),
            ("REDIS_PASSWORD_FILE", "/opt/bitnami/redis/secrets/redis-password"),
            ("GF_AUTH_TOKEN_ROTATION_INTERVAL_MINUTES", "10"),
            ("GF_SECURITY_SECRET_KEY_NAME", "grafana"),
            ("ARGOCD_REDIS_PASSWORD", "argocd-redis-auth"),
            ("ARGOCD_TOKEN_TTL", "24h"),
            ("TOKEN", "true"),
            ("EOS_TOKEN", "endoftext!"),
            ("MAX_TOKEN", "128000000"),
            ("MAX_TOKENS", "0123456789"),
            ("OPENAI_API_KEY_HEADER", "X-Api-Key-Header"),
            ("API_KEY", "X-Api-Key"),
            ("ACCESS_TOKEN", "com.example.TokenProvider"),
            ("WEBHOOK_SECRET", "github-webhook"),
            ("TLS_SECRET", "ingress-cert"),
            ("IMAGE_PULL_SECRET", "regcred"),
            ("SERVICE_ACCOUNT_TOKEN", "/var/run/secrets/kubernetes.io/serviceaccount/token"),
            ("TOKEN_URL", "https://login.example.com/oauth2/token"),
            ("SECRET_NAMESPACE", "finance"),
            ("PASSWORD_POLICY", "length12"),
            ("PWD", "/workspace/agent1"),
            ("COMPASS", "north-by-1"),
            ("KEYCLOAK_PUBLIC_KEY", "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"),
            ("LICENSE_KEY", "0123456789abcdef"),
            ("PARTITION_KEY", "customer_id_0"),
        ] {
            assert!(!is_plain(name, value), "{name}: {value}");
        }
    }

    #[test]
    fn scripts_are_read_word_by_word() {
        for script in [
            "export PGPASSWORD=hunter2; psql -h db",
            "PGPASSWORD='hunter2' psql -h db",
            "mysqladmin ping --user=root --password=hunter2",
            "redis-server --requirepass hunter2",
            "vault login -method=userpass username=x password=hunter2",
        ] {
            assert!(in_script(script).is_some(), "{script}");
        }
        for script in [
            "export PGPASSWORD=\"$DB_PASSWORD\"; psql -h db",
            "PGPASSWORD=$(cat /run/secrets/db) psql -h db",
            "PGPASSWORD=`cat /run/secrets/db` psql -h db",
            "if [ -z \"$PASSWORD\" ]; then echo \"set --password first\"; exit 1; fi",
            "docker login --username x --password-stdin registry.example.com",
            "exec server --token-file /run/secrets/token --api-key-header X-Key",
            "redis-cli -a \"$REDIS_PASSWORD\" ping | grep PONG",
            "sed -i 's/password=.*/password=none/' /etc/app.conf",
            "echo the --token option is deprecated",
        ] {
            assert!(in_script(script).is_none(), "{script}");
        }
    }
}
