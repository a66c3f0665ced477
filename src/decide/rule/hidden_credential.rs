//! `hidden-credential`: a credential of a known form is put together from parts, or written in base64.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::{Code, Found, Level, Rule};
use crate::decide::json::{Read as _, Value};
use crate::decide::literal;
use crate::decide::pod::CONTAINER_LISTS;
use crate::decide::site::Subject;

/// a credential of a known form is put together from parts, or written in base64.
pub const RULE: Rule = Rule {
    id: "hidden-credential",
    level: Level::Restricted,
    what: "a credential of a known form is put together from parts, or written in base64.",
    why: "A key that is split over variables and joined by `$(NAME)`, or encoded, is as static as any other; it is only harder to find when it has to be revoked.",
    fix: "Revoke it, since it has been seen, and issue a credential for the task with its TaskScope.",
    references: &["https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/"],
    since: "0.1.0",
    allows: "",
    sites: &[],
    code: Some(Code { look, lacks: "the values of `$(NAME)`, one inside the other, and what base64 says" }),
};

/// The longest text that Linux hands to a process: a longer one starts nothing.
const LONGEST: usize = 128 * 1024;
/// How much is put together for one pod before it is let be: real pods come to a few KiB.
const MOST: usize = 2 * 1024 * 1024;
/// The shortest base64 in which a credential of a known form fits.
const SHORTEST: usize = 20;
/// Base64 of base64 is still read.
const DEEPEST: usize = 2;

/// Values of variables that are written in the container, by name.
type Values<'a> = BTreeMap<&'a str, Cow<'a, str>>;

fn look(pod: &Subject<'_>, found: &mut Vec<Found>) {
    let mut left = MOST;
    if let Some(annotations) = pod.root.member("metadata").and_then(|metadata| metadata.member("annotations")) {
        for (key, value) in annotations.members() {
            let text = value.as_str().unwrap_or_default();
            if !literal::is_known(text) && is_encoded(text, DEEPEST) {
                found.push(told(
                    pod.path(&format!("metadata.annotations['{key}']")),
                    format!("annotation `{key}` holds a credential in base64"),
                ));
            }
        }
    }
    for list in CONTAINER_LISTS {
        for (c, container) in pod.spec().items(list).iter().enumerate() {
            let at = |tail: &str| pod.spec_path(&format!("{list}[{c}].{tail}"));
            let name = container.text("name");
            let mut values = Values::new();
            for (e, env) in container.items("env").iter().enumerate() {
                let (variable, value) = (env.text("name"), env.text("value"));
                let whole = expand(value, &values, &mut left);
                let form = Form::of(value, &whole);
                if let Some(how) = form.hidden() {
                    found.push(told(
                        at(&format!("env[{e}].value")),
                        format!("environment variable `{variable}` of container `{name}` holds a credential {how}"),
                    ));
                }
                // Where it is a credential by itself it has its own finding: not one more for
                // every place that names it. What comes from elsewhere is not known here.
                if form == Form::None && !value.is_empty() {
                    values.insert(variable, whole);
                } else {
                    values.remove(variable);
                }
            }
            for (tail, what, texts) in commands(container) {
                for (n, text) in texts.iter().enumerate() {
                    let text = text.as_str().unwrap_or_default();
                    if let Some(how) = Form::of(text, &expand(text, &values, &mut left)).hidden() {
                        found.push(told(
                            at(&format!("{tail}[{n}]")),
                            format!("{what} of container `{name}` holds a credential {how}"),
                        ));
                    }
                }
            }
        }
    }
}

fn told(path: String, message: String) -> Found {
    let help = "revoke it, since it has been seen, label the pod `mandate.dev/task: <task>` and let its TaskScope issue a short-lived credential";
    Found { path, message, help: help.to_owned(), ..Found::default() }
}

/// Everything in a container that is a command, with its path and its name in words.
pub(super) fn commands<'a>(container: &'a Value<'a>) -> Vec<(&'static str, &'static str, &'a [Value<'a>])> {
    let of = |path: &[&str]| match container.at(path) {
        Some(Value::Array(texts)) => texts.as_slice(),
        _ => &[],
    };
    let mut all = vec![("command", "the command", of(&["command"])), ("args", "an argument", of(&["args"]))];
    if container.member("lifecycle").is_some() {
        all.push(("lifecycle.postStart.exec.command", "the postStart hook", of(&["lifecycle", "postStart", "exec", "command"])));
        all.push(("lifecycle.preStop.exec.command", "the preStop hook", of(&["lifecycle", "preStop", "exec", "command"])));
    }
    all.push(("livenessProbe.exec.command", "the livenessProbe", of(&["livenessProbe", "exec", "command"])));
    all.push(("readinessProbe.exec.command", "the readinessProbe", of(&["readinessProbe", "exec", "command"])));
    all.push(("startupProbe.exec.command", "the startupProbe", of(&["startupProbe", "exec", "command"])));
    all.retain(|(_, _, texts)| !texts.is_empty());
    all
}

/// How a text holds a credential.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    None,
    /// As it is: the business of `literal-credential`.
    Plain,
    Parts,
    Encoded,
}

impl Form {
    fn of(written: &str, whole: &str) -> Self {
        match (literal::is_known(whole), written == whole) {
            (true, true) => Self::Plain,
            (true, false) if literal::is_known(written) => Self::Plain,
            (true, false) => Self::Parts,
            (false, _) if is_encoded(whole, DEEPEST) => Self::Encoded,
            (false, _) => Self::None,
        }
    }

    fn hidden(self) -> Option<&'static str> {
        match self {
            Self::None | Self::Plain => None,
            Self::Parts => Some("that is put together from other variables"),
            Self::Encoded => Some("in base64"),
        }
    }
}

/// A text with every `$(NAME)` in it replaced, as the kubelet does: `$$` stands for `$`, and
/// what has no value stays as it is.
fn expand<'a>(text: &'a str, values: &Values<'_>, left: &mut usize) -> Cow<'a, str> {
    if !text.contains("$(") {
        return Cow::Borrowed(text);
    }
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    // Where nothing closes any more, nothing is looked for any more: once, not for every `$(`.
    let mut closes = true;
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            whole.push('$');
            rest = after;
            continue;
        }
        let reference = rest.strip_prefix('(').filter(|_| closes);
        let named = reference.and_then(|rest| rest.split_once(')'));
        closes = closes && (reference.is_none() || named.is_some());
        if let Some((name, after)) = named {
            match values.get(name) {
                Some(value) if value.len() <= *left && whole.len() + value.len() <= LONGEST => {
                    *left -= value.len();
                    whole.push_str(value);
                }
                _ => {
                    whole.push_str("$(");
                    whole.push_str(name);
                    whole.push(')');
                }
            }
            rest = after;
        } else {
            whole.push('$');
        }
    }
    whole.push_str(rest);
    Cow::Owned(whole)
}

/// Whether some base64 in a text says a credential.
fn is_encoded(text: &str, depth: usize) -> bool {
    if text.len() < SHORTEST || depth == 0 {
        return false;
    }
    let runs = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_')));
    runs.filter(|run| run.len() >= SHORTEST).any(|run| {
        let Some(bytes) = decode(run) else { return false };
        let said = String::from_utf8_lossy(&bytes);
        literal::is_known(&said) || is_encoded(&said, depth - 1)
    })
}

fn decode(run: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    // One character alone at the end says nothing.
    let run = if run.len() % 4 == 1 { run.get(..run.len() - 1)? } else { run };
    let engine = if run.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    engine.decode(run).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> String {
        let values = Values::from([("A", Cow::Borrowed("one")), ("B", Cow::Borrowed("two"))]);
        expand(text, &values, &mut 1000).into_owned()
    }

    #[test]
    fn names_are_replaced_as_the_kubelet_does() {
        for (text, whole) in [
            ("$(A)-$(B)", "one-two"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$one"),
            ("$(C)", "$(C)"),
            ("$(A", "$(A"),
            ("$A $(A)", "$A one"),
            ("a$", "a$"),
            ("$()", "$()"),
        ] {
            assert_eq!(expanded(text), whole, "{text}");
        }
    }

    #[test]
    fn a_text_that_doubles_with_every_line_ends() {
        let names: Vec<String> = (0..64).map(|n| format!("V{n}")).collect();
        let mut values = Values::from([("V0", Cow::Borrowed("0123456789abcdef"))]);
        let mut left = MOST;
        for pair in names.windows(2) {
            let text = format!("$({0})$({0})", pair[0]);
            let whole = expand(&text, &values, &mut left).into_owned();
            assert!(whole.len() <= LONGEST + text.len());
            values.insert(&pair[1], Cow::Owned(whole));
        }
    }

    #[test]
    fn base64_is_read_in_both_alphabets_with_padding_and_without() {
        let key = format!("ghp_{}", "0".repeat(36));
        let [standard, url] = [
            base64::engine::general_purpose::STANDARD.encode(&key),
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&key),
        ];
        for text in
            [standard.clone(), url, format!("token: {standard}"), base64::engine::general_purpose::STANDARD.encode(&standard)]
        {
            assert!(is_encoded(&text, DEEPEST));
        }
        for text in [
            "c53bb1d4f0a6e3a1f8a2a5c2f53ed2b1d6f28a2c5a86d01e2c9d9b4ef4b0f4d2",
            "/usr/local/share/ca-certificates/extra",
            "aGVsbG8gd29ybGQsIGhlbGxvIHdvcmxk",
        ] {
            assert!(!is_encoded(text, DEEPEST), "{text}");
        }
    }
}
