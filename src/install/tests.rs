use serde_json::json;

use super::*;

fn install() -> Install {
    Install::new(NAMESPACE, ["finance", "research"], Endpoint::Service)
        .unwrap()
        .ceiling(vec![rule("", "configmaps", &["get"])])
        .unwrap()
        .secret_keys([SecretSource { namespace: "finance".into(), secret_name: "crm-api".into() }])
        .unwrap()
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> KubernetesRule {
    KubernetesRule {
        api_groups: vec![group.into()],
        resources: vec![resource.into()],
        resource_names: vec![],
        verbs: verbs.iter().map(|verb| (*verb).into()).collect(),
    }
}

fn refused(rule: KubernetesRule) -> InstallError {
    Install::new(NAMESPACE, ["finance"], Endpoint::Service).unwrap().ceiling(vec![rule]).unwrap_err()
}

/// Every rule with the kind, namespace and name of the role it stands in.
fn rules(install: &Install) -> Vec<(String, Value)> {
    let mut all = vec![];
    for object in install.rbac() {
        let of =
            format!("{} {}/{}", object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]).replace('"', "");
        all.extend(object["rules"].as_array().into_iter().flatten().map(|rule| (of.clone(), rule.clone())));
    }
    assert!(all.len() > 20, "{all:?}");
    all
}

fn has(list: &Value, word: &str) -> bool {
    list.as_array().into_iter().flatten().any(|held| held == word)
}

fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name).unwrap()
}

#[test]
fn namespaces_of_kubernetes_are_never_guarded() {
    for system in ["kube-system", "kube-public", "kube-node-lease"] {
        let answer = Install::new(NAMESPACE, ["finance", system], Endpoint::Service);
        assert_eq!(answer, Err(InstallError::Kubernetes(system.into())));
    }
}

#[test]
fn mandates_own_namespace_is_never_guarded() {
    assert_eq!(Install::new("home", ["home"], Endpoint::Service), Err(InstallError::Own("home".into())));
}

#[test]
fn mandate_never_lives_among_kubernetes_own() {
    assert_eq!(Install::new("kube-system", ["finance"], Endpoint::Service), Err(InstallError::Home("kube-system".into())));
}

#[test]
fn names_that_no_namespace_can_have_are_refused() {
    for bad in ["", "Finance", "a.b", "-a", "a-", "a b", "a'b", &"a".repeat(64)] {
        assert_eq!(Install::new(NAMESPACE, [bad], Endpoint::Service), Err(InstallError::Namespace(bad.into())), "{bad:?}");
        assert_eq!(Install::new(bad, ["finance"], Endpoint::Service), Err(InstallError::Namespace(bad.into())), "{bad:?}");
    }
}

#[test]
fn addresses_that_no_api_server_calls_are_refused() {
    for bad in ["", "http://a", "https://", "https:///a", "https://u@a", "https://a?b", "https://a#b", "https://a b"] {
        let answer = Install::new(NAMESPACE, ["finance"], Endpoint::Url(bad.into()));
        assert_eq!(answer, Err(InstallError::Address(bad.into())), "{bad:?}");
    }
}

#[test]
fn a_ceiling_is_no_ceiling_with_a_wildcard() {
    for rule in [rule("*", "pods", &["get"]), rule("", "*", &["get"]), rule("", "pods/*", &["get"]), rule("", "pods", &["*"])] {
        assert_eq!(refused(rule), InstallError::Wildcard);
    }
}

#[test]
fn a_ceiling_holds_nothing_that_gives_any_right() {
    for verb in ["escalate", "bind", "impersonate"] {
        assert_eq!(refused(rule("rbac.authorization.k8s.io", "roles", &["get", verb])), InstallError::Verb(verb.into()));
    }
    assert_eq!(refused(rule("", "serviceaccounts/token", &["create"])), InstallError::Tokens);
}

#[test]
fn a_ceiling_lets_secrets_be_read_by_name_only() {
    for verb in ["get", "list", "watch"] {
        assert_eq!(refused(rule("", "secrets", &[verb])), InstallError::AllSecrets);
    }
    let by_name = KubernetesRule { resource_names: vec!["one".into()], ..rule("", "secrets", &["get"]) };
    assert!(install().ceiling(vec![by_name]).is_ok());
}

#[test]
fn secret_keys_lie_in_guarded_namespaces() {
    let elsewhere = SecretSource { namespace: "sales".into(), secret_name: "crm-api".into() };
    let expected = InstallError::NotGuarded { namespace: "sales".into(), secret: "crm-api".into() };
    assert_eq!(install().secret_keys([elsewhere]), Err(expected));
    let unnamed = SecretSource { namespace: "finance".into(), secret_name: "No Secret".into() };
    assert_eq!(install().secret_keys([unnamed]), Err(InstallError::Secret("No Secret".into())));
}

#[test]
fn no_rule_holds_a_wildcard_or_a_verb_that_gives_any_right() {
    for (of, rule) in rules(&install()) {
        for word in ["*", "escalate", "bind", "impersonate"] {
            for list in ["verbs", "resources", "apiGroups"] {
                assert!(!has(&rule[list], word), "{of}: {rule}");
            }
        }
    }
}

#[test]
fn no_secret_is_read_but_by_name() {
    for (of, rule) in rules(&install()) {
        if has(&rule["resources"], "secrets") && ["get", "list", "watch"].iter().any(|verb| has(&rule["verbs"], verb)) {
            let allowed = match of.as_str() {
                "Role mandate-system/mandate-webhook" => json!(["mandate-webhook-tls"]),
                "Role mandate-system/mandate-authorizer" => json!(["mandate-authorizer-tls"]),
                "Role finance/mandate-secret-keys" => json!(["crm-api"]),
                _ => panic!("{of} reads secrets: {rule}"),
            };
            assert_eq!(rule["resourceNames"], allowed, "{of}");
        }
    }
}

#[test]
fn writes_to_secrets_tokens_and_roles_are_granted_in_single_namespaces_only() {
    for (of, rule) in rules(&install()) {
        let sensitive = ["secrets", "serviceaccounts/token", "roles", "rolebindings"]
            .iter()
            .any(|resource| has(&rule["resources"], resource));
        let writes = ["create", "update", "patch", "delete"].iter().any(|verb| has(&rule["verbs"], verb));
        assert!(!(sensitive && writes && of.starts_with("ClusterRole")), "{of}: {rule}");
    }
}

#[test]
fn the_ceiling_is_bound_in_guarded_namespaces_and_not_in_the_cluster() {
    let bound: Vec<(String, String)> = install()
        .rbac()
        .iter()
        .filter(|object| object["roleRef"]["name"] == CEILING)
        .map(|object| {
            (object["kind"].as_str().unwrap().to_owned(), object["metadata"]["namespace"].as_str().unwrap_or("-").to_owned())
        })
        .collect();
    assert_eq!(bound, [("RoleBinding".into(), "finance".into()), ("RoleBinding".into(), "research".into())]);
}

#[test]
fn nobody_is_given_cluster_policies_or_the_right_to_act_for_others() {
    let people = install()
        .rbac()
        .into_iter()
        .filter(|object| object["metadata"]["labels"].as_object().is_some_and(|labels| labels.len() > 1));
    let text = Value::from(people.collect::<Vec<_>>()).to_string();
    assert!(text.contains("aggregate-to-admin") && !text.contains("clusteragentpolicies") && !text.contains("act-for"), "{text}");
}

#[test]
fn nothing_of_an_installation_bears_a_name_kept_for_tasks() {
    for object in install().objects() {
        let name = object["metadata"]["name"].as_str().unwrap();
        assert!(["mandate-task-", "mandate-agent-", "mandate-scope-"].iter().all(|prefix| !name.starts_with(prefix)), "{name}");
    }
}

#[test]
fn every_policy_fails_closed_and_is_bound_to_deny() {
    let policies = install().policies();
    assert_eq!(policies.len(), 20);
    for pair in policies.chunks(2) {
        let mut bound = json!({"policyName": pair[0]["metadata"]["name"], "validationActions": ["Deny"]});
        if pair[0]["spec"].get("paramKind").is_some() {
            let of_scopes = json!({"matchExpressions": [{"key": "mandate.dev/scope", "operator": "Exists"}]});
            bound["paramRef"] = json!({"selector": of_scopes, "parameterNotFoundAction": "Allow"});
        }
        assert_eq!((&pair[0]["spec"]["failurePolicy"], &pair[1]["spec"]), (&json!("Fail"), &bound));
    }
}

#[test]
fn a_role_is_held_to_the_same_ceiling_when_it_is_written_and_when_it_is_bound() {
    let policies = install().policies();
    let variables = |name: &str| named(&policies, "ValidatingAdmissionPolicy", name)["spec"]["variables"].to_string();
    assert_eq!(
        variables("mandate-controller-roles").replace("object.?", "params.?"),
        variables("mandate-controller-bound-roles")
    );
}

#[test]
fn policies_stop_nobody_but_the_controller_from_deleting() {
    for policy in install().policies() {
        for rule in policy["spec"]["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
            if has(&rule["operations"], "DELETE") {
                let only = "request.userInfo.username == 'system:serviceaccount:mandate-system:mandate-controller'";
                assert_eq!(policy["spec"]["matchConditions"][0]["expression"], only, "{}", policy["metadata"]["name"]);
            }
        }
    }
}

/// Every webhook of both configurations.
fn webhooks(install: &Install) -> Vec<Value> {
    let all = install.webhooks().into_iter().flat_map(|configuration| configuration["webhooks"].as_array().cloned().unwrap());
    all.collect()
}

fn validating(install: &Install, name: &str) -> Value {
    let configurations = install.webhooks();
    let configuration = named(&configurations, "ValidatingWebhookConfiguration", REGISTRATION);
    configuration["webhooks"].as_array().unwrap().iter().find(|webhook| webhook["name"] == name).unwrap().clone()
}

#[test]
fn what_can_be_refused_fails_closed_and_what_is_only_warned_about_fails_open() {
    let install = install().workloads(["argoproj.io/rollouts"]).unwrap();
    for webhook in webhooks(&install) {
        let open =
            ["pod-metadata", "workloads", "custom-workloads"].iter().any(|name| webhook["name"] == format!("{name}.mandate.dev"));
        assert_eq!(webhook["failurePolicy"], if open { "Ignore" } else { "Fail" }, "{webhook}");
        assert!(webhook["timeoutSeconds"].as_u64().unwrap() <= if open { 2 } else { 5 }, "{webhook}");
    }
}

#[test]
fn nothing_opts_out_by_a_label_another_version_or_a_group() {
    let install = install().workloads(["argoproj.io/rollouts"]).unwrap();
    for webhook in webhooks(&install) {
        assert_eq!((&webhook["matchPolicy"], &webhook["sideEffects"]), (&json!("Equivalent"), &json!("None")), "{webhook}");
        assert!(webhook.get("objectSelector").is_none() && webhook["clientConfig"].get("caBundle").is_none(), "{webhook}");
        let of_mandate = webhook["rules"][0]["apiGroups"] == json!(["mandate.dev"]);
        let selector = &webhook["namespaceSelector"]["matchExpressions"];
        let by_name = json!([{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["finance", "research"]}]);
        assert_eq!(*selector, if of_mandate { Value::Null } else { by_name }, "{webhook}");
        // Nodes and their mirror pods are asked about as everybody else.
        assert!(!webhook["matchConditions"].to_string().contains("userInfo"), "{webhook}");
    }
}

#[test]
fn deletions_status_and_scale_are_never_asked_about() {
    let install = install().workloads(["argoproj.io/rollouts"]).unwrap();
    for webhook in webhooks(&install) {
        for rule in webhook["rules"].as_array().unwrap() {
            assert!(!has(&rule["operations"], "DELETE") && !has(&rule["operations"], "*"), "{webhook}");
            for resource in rule["resources"].as_array().unwrap() {
                let resource = resource.as_str().unwrap();
                assert!(!resource.contains('*') && !resource.ends_with("/status") && !resource.ends_with("/scale"), "{webhook}");
            }
        }
        // Of an update only what changes something that rules look at.
        let updates = webhook["rules"].as_array().unwrap().iter().any(|rule| has(&rule["operations"], "UPDATE"));
        assert!(
            !updates || webhook["matchConditions"].to_string().contains("oldObject") || webhook["name"] == "tasks.mandate.dev",
            "{webhook}"
        );
    }
}

#[test]
fn every_kind_of_kubernetes_that_makes_pods_is_asked_about() {
    let workloads = validating(&install(), "workloads.mandate.dev");
    let asked: Vec<&str> = workloads["rules"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| rule["resources"].as_array().unwrap())
        .filter_map(Value::as_str)
        .collect();
    let all = [
        "deployments",
        "replicasets",
        "daemonsets",
        "statefulsets",
        "jobs",
        "cronjobs",
        "replicationcontrollers",
        "podtemplates",
    ];
    assert_eq!(asked, all);
}

#[test]
fn kinds_that_an_installation_names_are_asked_about_in_every_version() {
    let install = install().workloads(["serving.knative.dev/services", "argoproj.io/rollouts"]).unwrap();
    let custom = validating(&install, "custom-workloads.mandate.dev");
    let rule = |group: &str, resource: &str| json!({"operations": ["CREATE", "UPDATE"], "apiGroups": [group], "apiVersions": ["*"], "resources": [resource], "scope": "Namespaced"});
    assert_eq!(custom["rules"], json!([rule("argoproj.io", "rollouts"), rule("serving.knative.dev", "services")]));
}

#[test]
fn what_is_no_custom_kind_cannot_be_named() {
    for bad in [
        "rollouts",
        "argoproj.io/",
        "argoproj.io/*",
        "*/rollouts",
        "argoproj.io/rollouts/status",
        "Argo.io/rollouts",
        "group/kind",
    ] {
        assert_eq!(install().workloads([bad]), Err(InstallError::Workload(bad.into())), "{bad}");
    }
    for known in ["apps/deployments", "batch/jobs", "/pods", "mandate.dev/agenttasks"] {
        assert_eq!(install().workloads([known]), Err(InstallError::KnownWorkload(known.into())), "{known}");
    }
}

#[test]
fn the_webhook_reads_pods_one_by_one_where_they_are_guarded() {
    for (of, rule) in rules(&install()) {
        if of.ends_with("mandate-webhook") && has(&rule["resources"], "pods") {
            assert!(of.starts_with("Role finance/") || of.starts_with("Role research/"), "{of}");
            assert_eq!((&rule["verbs"], &rule["resources"]), (&json!(["get"]), &json!(["pods"])));
        }
    }
}

#[test]
fn with_nothing_guarded_only_mandates_own_kinds_are_asked_about() {
    let webhooks = Install::new(NAMESPACE, Vec::<String>::new(), Endpoint::Service).unwrap().webhooks();
    let names: Vec<&Value> = webhooks
        .iter()
        .flat_map(|configuration| configuration["webhooks"].as_array().unwrap())
        .map(|webhook| &webhook["name"])
        .collect();
    assert_eq!(names, ["tasks.mandate.dev", "resources.mandate.dev"]);
}

#[test]
fn only_secrets_that_ask_for_a_token_are_ever_sent() {
    let secrets = validating(&install(), "secrets.mandate.dev");
    assert_eq!(
        secrets["matchConditions"][0]["expression"],
        "has(object.type) && object.type == 'kubernetes.io/service-account-token'"
    );
    let asked_about = |word: &str| webhooks(&install()).iter().any(|webhook| webhook["rules"].to_string().contains(word));
    assert!(!asked_about("configmaps") && !asked_about("certificatesigningrequests"));
}

#[test]
fn a_webhook_beside_the_cluster_is_called_by_its_address() {
    let install = Install::new(NAMESPACE, ["finance"], Endpoint::Url("https://127.0.0.1:9443/".into())).unwrap();
    let urls: Vec<Value> =
        install.webhooks().iter().map(|configuration| configuration["webhooks"][0]["clientConfig"].clone()).collect();
    assert_eq!(urls, [json!({"url": "https://127.0.0.1:9443/mutate"}), json!({"url": "https://127.0.0.1:9443/validate"})]);
}

#[test]
fn with_cert_manager_the_webhook_may_write_nothing() {
    let install = install().certificates(Certificates::CertManager);
    for (of, rule) in rules(&install).iter().filter(|(of, _)| of.ends_with("/mandate-webhook")) {
        let writes = ["update", "patch", "delete"].iter().any(|verb| has(&rule["verbs"], verb));
        assert!(!writes && !has(&rule["resources"], "secrets"), "{of}: {rule}");
    }
    for configuration in install.webhooks() {
        assert_eq!(configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"], "mandate-system/mandate-webhook");
    }
}
