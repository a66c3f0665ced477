use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: impl AsRef<[u8]>) -> Manifests {
    let mut all = Manifests::default();
    all.text(&"m.yaml".into(), text.as_ref());
    all
}

/// The first document as JSON.
fn json(text: &str) -> serde_json::Value {
    let read = Read::of(text);
    assert_eq!(read.faults, [], "{text}");
    read.documents[0].value().into()
}

/// Where and what the problems are.
fn problems(text: impl AsRef<[u8]>) -> Vec<(usize, usize, String)> {
    let problems = read(text).problems.into_iter();
    problems
        .map(|problem| {
            let at = problem.at.unwrap_or(Position { line: 0, column: 0 });
            (at.line, at.column, problem.message)
        })
        .collect()
}

fn names(manifests: &Manifests) -> Vec<&str> {
    manifests.objects.iter().map(Document::name).collect()
}

/// An object in one line.
fn object(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}")
}

#[test]
fn a_bad_document_does_not_hide_the_others() {
    let text = format!("{}\n---\nkind: [a\n---\n{}\n---\na: b: c\n---\n{}\n", object("one"), object("two"), object("three"));
    let all = read(&text);
    assert_eq!(names(&all), ["one", "two", "three"]);
    let lines: Vec<_> = all.problems.iter().map(|problem| problem.at.unwrap().line).collect();
    assert_eq!(lines, [3, 7]);
}

#[test]
fn a_key_written_twice_is_a_problem_and_the_last_one_holds() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\n";
    let all = read(text);
    assert_eq!(names(&all), ["b"]);
    assert_eq!(problems(text), [(5, 3, "key `name` is written twice; the first one is in line 4".to_owned())]);
    assert_eq!(problems("{\"a\": 1,\n \"a\": 2}").len(), 1);
}

/// As `kubectl` 1.37 reads them (`k8s.io/apimachinery/pkg/util/yaml`).
#[test]
fn documents_mean_what_kubectl_reads() {
    let table = [
        ("1: x", json!({"1": "x"})),
        ("yes: x", json!({"true": "x"})),
        ("0644: x", json!({"420": "x"})),
        ("1.5: x", json!({"1.5": "x"})),
        ("x: &x {a: 1, b: 2}\nc:\n  a: 3\n  <<: *x", json!({"x": {"a": 1, "b": 2}, "c": {"a": 1, "b": 2}})),
        ("x: &x {a: 1, b: 2}\nc:\n  <<: *x\n  a: 3", json!({"x": {"a": 1, "b": 2}, "c": {"a": 3, "b": 2}})),
        (
            "x: &x {a: 1}\nz: &z {a: 2, b: 2}\nc:\n  <<: [*x, *z]\n  q: 3",
            json!({"x": {"a": 1}, "z": {"a": 2, "b": 2}, "c": {"a": 1, "b": 2, "q": 3}}),
        ),
        ("x: &x {a: 1}\nc:\n  \"<<\": *x", json!({"x": {"a": 1}, "c": {"<<": {"a": 1}}})),
        ("x: &x {a: 1}\nc:\n  <<: *x\n  <<: *x", json!({"x": {"a": 1}, "c": {"a": 1}})),
        ("c:\n  !!str <<: {a: 1}", json!({"c": {"<<": {"a": 1}}})),
        ("c:\n  <<: {a: 1}", json!({"c": {"a": 1}})),
        ("x: &x a\n*x : c", json!({"x": "a", "a": "c"})),
        ("c: {a, b: , \"c\"}", json!({"c": {"a": null, "b": null, "c": null}})),
        ("c: [a, b: c, {d: e}]", json!({"c": ["a", {"b": "c"}, {"d": "e"}]})),
        ("a: !foo true", json!({"a": "true"})),
        ("a: ! 12", json!({"a": "12"})),
        ("a: !!str 12", json!({"a": "12"})),
        ("a: |\n  x\n  y", json!({"a": "x\ny\n"})),
        ("a: >-\n  x\n  y\n", json!({"a": "x y"})),
        ("? a\n: b", json!({"a": "b"})),
        ("a: \"yes\"\nb: 'true'\nc: no", json!({"a": "yes", "b": "true", "c": false})),
        ("\u{feff}a: 1", json!({"a": 1})),
        ("a: 1\r\nb: 2\r\n", json!({"a": 1, "b": 2})),
    ];
    for (text, means) in table {
        assert_eq!(json(text), means, "{text}");
    }
    let refused = [
        "~: x",
        "[a]: x",
        "{a: b}: x",
        "c:\n  <<: 3",
        "c:\n  <<: [3]",
        "a: *q",
        "a: &q [*q]",
        "a: !!int abc",
        "a: .inf",
        "a: @b",
        "a: %b",
    ];
    for text in refused {
        assert_eq!(problems(text).len(), 1, "{text}");
    }
}

#[test]
fn json_is_read_as_json() {
    assert_eq!(json(r#"{"a": "\ud83d\ude00\/\u0041", "b": 1.0e2, "c": "yes"}"#), json!({"a": "😀/A", "b": 100.0, "c": "yes"}));
    let two = "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}\n\n  {\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\t\"metadata\": {\"name\": \"b\"}}";
    let all = read(two);
    assert_eq!(names(&all), ["a", "b"]);
    assert_eq!(all.objects[1].root.at, Position { line: 3, column: 3 });
    assert_eq!(all.objects[1].root.locate("metadata"), Position { line: 4, column: 2 });
    assert_eq!(all.objects[1].root.locate("kind"), Position { line: 3, column: 24 });
    assert_eq!(problems("{\"a\": 1,,}").len(), 1);
}

#[test]
fn a_list_is_its_items_in_their_own_places() {
    let text = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- apiVersion: v1\n  kind: List\n  items:\n  - {}\n",
        object("a"),
        object("b")
    );
    let all = read(&text);
    assert_eq!(names(&all), ["a", "b"]);
    assert_eq!(all.read, 1);
    assert_eq!(all.objects[1].root.locate("metadata.name"), Position { line: 8, column: 44 });
    let pods = read("{apiVersion: v1, kind: PodList, items: [{metadata: {name: a}}]}");
    assert_eq!((pods.objects[0].kind(), pods.objects[0].api_version()), ("Pod", "v1"));
    // No list of Kubernetes, though its name ends like one.
    let other = read("{apiVersion: example.com/v1, kind: AllowList, metadata: {name: a}, spec: {items: []}}");
    assert_eq!(names(&other), ["a"]);
}

#[test]
fn other_yaml_is_passed_over() {
    let all = read("replicas: 3\n---\n- a\n---\n\n---\nabc\n---\nkind: Kustomization\n");
    assert_eq!((all.objects.len(), all.problems.len(), all.read), (0, 0, 4));
}

#[test]
fn a_template_is_named_as_one() {
    let all = read("kind: Pod\n{{- if .Values.x }}\nmetadata: {name: {{ .Values.name }}}\n{{- end }}\n");
    assert!(all.problems[0].help.contains("helm template"), "{:?}", all.problems);
}

#[test]
fn bytes_that_are_no_text_are_a_problem_at_their_place() {
    assert_eq!(problems(b"a: 1\nb: \"\xc3\xa4\xff\"\n"), [(2, 6, "the file is no UTF-8".to_owned())]);
}

#[test]
fn aliases_that_grow_without_bound_are_refused() {
    let laughs = (1..20).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        format!("{text}a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", "))
    });
    assert_eq!(problems(&laughs).len(), 1);
    let long = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(1_000_000), vec!["*a"; 1000].join(", "));
    assert!(problems(&long)[0].2.contains("aliases"));
    let deep = (1..200).fold("a0: &a0 [x]\n".to_owned(), |text, n| format!("{text}a{n}: &a{n} [*a{}]\n", n - 1));
    assert!(problems(&deep)[0].2.contains("nested"));
    let merges: String =
        (1..200).fold("a0: &a0 {k: 1}\n".to_owned(), |text, n| format!("{text}a{n}: &a{n} {{<<: *a{}, k{n}: 1}}\n", n - 1));
    assert_eq!(problems(&merges), []);
}

#[test]
fn deep_and_wide_texts_are_refused_and_not_suffered() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(50_000),
        "- ".repeat(50_000),
        "{\"a\":".repeat(50_000),
        (0..2000).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
    ] {
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].2.contains("nested") || found[0].2.contains("no YAML"), "{found:?}");
    }
    let json = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    assert!(problems(json)[0].2.contains("nested more than 100"));
    assert!(problems(format!("[{}1]", "1,".repeat(1_000_001)))[0].2.contains("1000000 values"));
    assert!(problems("a: [\n---\n".repeat(10_000)).len() <= 101);
    let many = format!("{}\n---\n", object("a")).repeat(MOST_OBJECTS + 5);
    let all = read(&many);
    assert_eq!((all.objects.len(), all.problems.len()), (MOST_OBJECTS, 1));
}

#[test]
fn a_path_that_is_not_there_is_a_problem() {
    let all = Manifests::read(&["/nonexistent/a.yaml".into()]);
    assert_eq!((all.problems.len(), all.problems[0].at), (1, None));
}

/// Everything that is done with what was read, for whatever was read.
fn exercise(bytes: &[u8]) {
    let all = read(bytes);
    for document in &all.objects {
        let value = document.root.value();
        let text = serde_json::to_string(&value).unwrap();
        let again: crate::decide::json::Value<'_> = serde_json::from_str(&text).unwrap();
        drop(again);
        document.root.locate("spec.containers[0].env[0].valueFrom['x']");
        let _ = (document.name(), document.namespace(), document.group());
    }
    for problem in &all.problems {
        assert!(!problem.message.is_empty());
        assert!(problem.at.is_none_or(|at| at.line >= 1 && at.column >= 1));
    }
}

/// Pieces that manifests are made of, and pieces that break them.
const PIECES: &[&str] = &[
    "apiVersion: v1\n",
    "kind: Pod\n",
    "kind: List\n",
    "items:\n",
    "metadata:\n",
    "  name: a\n",
    "spec:\n",
    "- ",
    "  ",
    "\t",
    "\n",
    "---\n",
    "...\n",
    "{",
    "}",
    "[",
    "]",
    ",",
    ": ",
    "\"",
    "'",
    "|\n",
    ">-\n",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "!x ",
    "!",
    "? ",
    "#",
    "%YAML 1.1\n",
    "%TAG ! x\n",
    "\u{feff}",
    "ä€😀",
    "\\ud83d",
    "\\u0000",
    "\u{0}",
    "0x",
    "1e400",
    "~",
    ".inf",
    "{\"a\":1}",
    "{\"apiVersion\":\"v1\",\"kind\":\"PodList\",\"items\":[",
    "\r\n",
    "\u{85}",
    "\u{2028}",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        exercise(&bytes);
    }

    #[test]
    fn no_mixture_of_pieces_makes_it_panic(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        exercise(pieces.concat().as_bytes());
    }

    #[test]
    fn no_broken_manifest_makes_it_panic(at in 0..2_000_usize, len in 0..20_usize, with in "\\PC{0,8}") {
        let mut text = include_str!("../../../examples/manifests/static-secrets.yaml").to_owned();
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let end = (at..=(at + len).min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        text.replace_range(at..end, &with);
        exercise(text.as_bytes());
    }

    /// Whatever is JSON is read as the JSON it is.
    #[test]
    fn json_round_trips(value in json_values()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let read = Read::of(&text);
            prop_assert_eq!(&read.faults, &[]);
            prop_assert_eq!(&serde_json::Value::from(read.documents[0].value()), &value);
        }
    }
}

fn json_values() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[ -~\\n\\t\u{0}\u{7f}\u{85}\u{2028}]{0,12}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map("\\PC{0,8}", inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    proptest::collection::btree_map("[a-z<~]{1,8}", value, 1..4).prop_map(|map| Value::Object(map.into_iter().collect()))
}
