use super::*;
use crate::api::{Mode, Profile, Workloads};
use crate::decide::rule::RULES;

const GROUNDS: [Ground; 3] = [Ground::whole(On::Pod), Ground::template("spec.template"), Ground::whole(On::Secret)];

fn asked(policy: &str, workloads: Workloads) -> Asked {
    Asked { policy: policy.into(), mode: Mode::Enforce, workloads, honours: vec![] }
}

fn restricted() -> Asked {
    asked("p", Workloads { profile: Profile::Restricted, ..Workloads::BUILT_IN })
}

/// A policy under which every rule refuses.
fn everything() -> Asked {
    let names = crate::api::RULE_NAMES.iter();
    let rules = names.map(|name| serde_json::from_value(serde_json::json!({"name": name, "action": "deny"})).unwrap()).collect();
    asked("p", Workloads { rules, ..Workloads::BUILT_IN })
}

/// All expressions about pods, one after the other.
fn of_pods(asked: &[Asked], severity: Severity) -> String {
    let all = variables(Ground::whole(On::Pod), asked, severity).unwrap_or_default();
    all.into_iter().map(|variable| variable.expression + "\n").collect()
}

#[test]
fn every_rule_is_said_or_listed_as_one_that_is_not() {
    let everywhere: Vec<Ground> = On::ALL.iter().map(|on| Ground::whole(*on)).chain(GROUNDS).collect();
    let all: String = everywhere
        .iter()
        .flat_map(|ground| [Severity::Deny, Severity::Warn].map(|severity| variables(*ground, &[everything()], severity)))
        .flatten()
        .flatten()
        .map(|variable| variable.expression)
        .collect();
    let gaps = gaps(&everywhere);
    for rule in RULES {
        let is_said = all.contains(&format!("'{}\\u001f", rule.id));
        let gap = gaps.iter().find(|gap| gap.rule.id == rule.id).map(|gap| gap.extent);
        assert_eq!(is_said, gap != Some(Extent::Whole), "{}: said {is_said}, gap {gap:?}", rule.id);
    }
}

#[test]
fn no_expression_is_longer_than_an_api_server_takes() {
    for ground in GROUNDS {
        for severity in [Severity::Deny, Severity::Warn] {
            for Variable { name, expression } in variables(ground, &[restricted()], severity).unwrap_or_default() {
                assert!(expression.chars().count() < 90_000, "{name} has {} characters", expression.chars().count());
            }
        }
    }
}

#[test]
fn what_only_the_cluster_knows_is_read_as_not_found() {
    let all = of_pods(&[restricted()], Severity::Deny);
    assert!(all.contains("'automounted-token\\u001f"), "in a pod the mount itself tells");
    assert!(!all.contains("'api-token-without-grant\\u001f"));
    let gaps = gaps(&GROUNDS);
    let of = |id: &str| {
        gaps.iter().find(|gap| gap.rule.id == id).map(|gap| (gap.extent, gap.lacks.iter().copied().collect::<Vec<_>>()))
    };
    assert_eq!(of("automounted-token"), Some((Extent::Part, vec!["the ServiceAccount"])));
    assert_eq!(of("api-token-without-grant"), Some((Extent::Whole, vec!["the task"])));
    assert_eq!(of("secret-env"), None);
}

#[test]
fn of_two_policies_that_find_the_same_the_graver_one_speaks() {
    let setting = |action: &str| serde_json::from_value(serde_json::json!({"name": "secret-env", "action": action})).unwrap();
    let lenient = asked("lenient", Workloads { rules: vec![setting("warn")], ..Workloads::BUILT_IN });
    let both = [lenient, asked("strict", Workloads::BUILT_IN)];
    assert!(of_pods(&both, Severity::Deny).contains("(strict)"));
    let warned = of_pods(&both, Severity::Warn);
    assert!(!warned.contains("'secret-env\\u001f"), "{warned}");
}

#[test]
fn what_a_policy_allows_is_left_alone() {
    let setting = serde_json::json!({"name": "image-pull-secret", "allow": ["registry-*", "it's"]});
    let workloads = Workloads { rules: vec![serde_json::from_value(setting).unwrap()], ..restricted().workloads };
    let all = of_pods(&[asked("p", workloads)], Severity::Deny);
    assert!(all.contains(r"in ['it\'s'] || ") && all.contains(".startsWith('registry-')"), "{all}");
}

#[test]
fn texts_are_written_so_that_nothing_in_them_ends_them() {
    assert_eq!(literal("a'b\\c\nd\u{1f}`"), r"'a\'b\\c\nd\u001f`'");
}

#[test]
fn members_whose_names_are_words_of_the_language_or_keys_are_reached_all_the_same() {
    assert_eq!(member("a", "b"), ("has(a.b)".to_owned(), "a.b".to_owned()));
    assert_eq!(member("a", "namespace"), ("has(dyn(a).namespace)".to_owned(), "dyn(a).namespace".to_owned()));
    assert_eq!(member("a", "x.y/z"), ("'x.y/z' in a".to_owned(), "a['x.y/z']".to_owned()));
}

#[test]
fn the_same_question_has_the_same_answer() {
    assert_eq!(variables(GROUNDS[0], &[restricted()], Severity::Deny), variables(GROUNDS[0], &[restricted()], Severity::Deny));
}
