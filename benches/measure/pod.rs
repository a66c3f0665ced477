//! The review that all benches send: an AdmissionReview of a pod of 12 KB, as an API server
//! sends it for a pod of a Deployment after its own defaults and Mandate's changes.

use serde_json::{Value, json};

/// The size that is aimed at.
pub const SIZE: usize = 12 * 1024;

/// What the pod holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Short-lived credentials of its task only: let in.
    Task,
    /// Five references to static secrets: refused with five findings.
    Secrets,
}

/// A task as a pod sees it.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    /// Name of its ServiceAccount and Secret.
    pub owns: &'a str,
}

/// The body of a review, 12 KB.
pub fn review(task: Task<'_>, holds: Holds, number: usize) -> Vec<u8> {
    let small = body(task, holds, number, 0).len();
    // Every further variable is in the spec and in managedFields: both grow.
    let each = (body(task, holds, number, 40).len() - small) / 40;
    let body = body(task, holds, number, SIZE.saturating_sub(small) / each);
    assert!(body.len().abs_diff(SIZE) < SIZE / 10, "a review of {} bytes", body.len());
    body
}

fn body(task: Task<'_>, holds: Holds, number: usize, variables: usize) -> Vec<u8> {
    let name = format!("invoice-agent-6d4cf56db6-{number:05}");
    let review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": format!("705ab4f5-6393-11e8-b7cc-{number:012}"),
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "name": name, "namespace": task.namespace, "operation": "CREATE",
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "uid": "1c9f2f5e-6b0a-4a7e-9d53-0a1f6f3c7a11",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
                "extra": {"authentication.kubernetes.io/credential-id": ["JTI=0d0f7bd3-6f3c-4d6f-b1fb-8b7a0b6f8a11"]}
            },
            "object": pod(task, holds, &name, variables), "oldObject": null, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}
        }
    });
    serde_json::to_vec(&review).expect("JSON is always written")
}

fn pod(task: Task<'_>, holds: Holds, name: &str, variables: usize) -> Value {
    let mut volumes = vec![
        json!({"name": "work", "emptyDir": {"sizeLimit": "1Gi"}}),
        json!({"name": "tmp", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "config", "configMap": {"name": "invoice-agent-config", "defaultMode": 420}}),
        json!({"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": true}}),
    ];
    let mut metadata = json!({
        "name": name, "generateName": "invoice-agent-6d4cf56db6-", "namespace": task.namespace,
        "uid": "b5a2ec5d-5a6f-4d2f-8c0e-3d6f0c1f9a77", "creationTimestamp": "2026-01-15T09:30:00Z",
        "labels": {
            "app.kubernetes.io/name": "invoice-agent", "app.kubernetes.io/part-of": "finance", "app.kubernetes.io/version": "1.42.0",
            "pod-template-hash": "6d4cf56db6"
        },
        "annotations": {
            "prometheus.io/scrape": "true", "prometheus.io/port": "9090",
            "checksum/config": "c53bb1d4f0a6e3a1f8a2a5c2f53ed2b1d6f28a2c5a86d01e2c9d9b4ef4b0f4d2"
        },
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "invoice-agent-6d4cf56db6",
            "uid": "0d5b5f3e-4f39-4f28-a2ba-3a2b6a4b1f0e", "controller": true, "blockOwnerDeletion": true}],
        "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
            "time": "2026-01-15T09:30:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields(variables)}]
    });
    let mut account = "default";
    if holds == Holds::Task {
        account = task.owns;
        metadata["labels"]["mandate.dev/task"] = json!(task.name);
        volumes.push(json!({"name": "mandate-task-credentials", "secret": {"secretName": task.owns, "defaultMode": 292}}));
        volumes.push(json!({"name": "mandate-kubernetes-api", "projected": {"defaultMode": 292, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}
        ]}}));
    } else {
        volumes.push(json!({"name": "keys", "secret": {"secretName": "crm-api", "defaultMode": 420}}));
        volumes
            .push(json!({"name": "mixed", "projected": {"defaultMode": 420, "sources": [{"secret": {"name": "ledger-api"}}]}}));
    }
    json!({
        "kind": "Pod", "apiVersion": "v1", "metadata": metadata,
        "spec": {
            "volumes": volumes,
            "containers": [container("agent", holds, variables.div_ceil(2)), container("proxy", holds, variables / 2)],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "activeDeadlineSeconds": 600, "dnsPolicy": "ClusterFirst",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "serviceAccountName": account, "serviceAccount": account, "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
                "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "invoice-agent"}}, "topologyKey": "kubernetes.io/hostname"}}]}},
            "schedulerName": "default-scheduler",
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "agents", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
            ],
            "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority"
        },
        "status": {"phase": "Pending", "qosClass": "Burstable"}
    })
}

fn container(name: &str, holds: Holds, variables: usize) -> Value {
    let mut env: Vec<Value> = (0..variables)
        .map(|n| json!({"name": variable(n), "value": format!("value of variable {n} of container {name}")}))
        .collect();
    env.push(json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}));
    env.push(json!({"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "invoice-agent-config", "key": "mode"}}}));
    let mut mounts = vec![
        json!({"name": "work", "mountPath": "/work"}),
        json!({"name": "tmp", "mountPath": "/tmp"}),
        json!({"name": "config", "readOnly": true, "mountPath": "/etc/agent"}),
    ];
    let mut env_from = vec![json!({"configMapRef": {"name": "invoice-agent-env"}})];
    if holds == Holds::Task {
        mounts.push(
            json!({"name": "mandate-task-credentials", "readOnly": true, "mountPath": "/var/run/secrets/mandate.dev/task"}),
        );
        mounts.push(json!({"name": "mandate-kubernetes-api", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}));
    } else {
        env.push(json!({"name": "API_KEY", "valueFrom": {"secretKeyRef": {"name": "crm-api", "key": "token"}}}));
        if name == "agent" {
            env_from.push(json!({"prefix": "CRM_", "secretRef": {"name": "crm-api"}}));
        }
    }
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": 8080, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    json!({
        "name": name, "image": format!("registry.example.com/finance/{name}@sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"),
        "args": ["--listen=0.0.0.0:8080", "--config=/etc/agent/config.yaml", "--log-format=json"],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "metrics", "containerPort": 9090, "protocol": "TCP"}],
        "envFrom": env_from, "env": env,
        "resources": {"limits": {"cpu": "2", "memory": "2Gi"}, "requests": {"cpu": "250m", "memory": "512Mi"}},
        "volumeMounts": mounts, "livenessProbe": probe("/livez"), "readinessProbe": probe("/readyz"),
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
        "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}}
    })
}

fn variable(n: usize) -> String {
    format!("INVOICE_AGENT_SETTING_{n:02}")
}

/// What managedFields say of such a pod: one member for every field that was set.
fn fields(variables: usize) -> Value {
    let own = || json!({".": {}, "f:name": {}, "f:value": {}});
    let container = |variables: usize| {
        let mut env =
            json!({".": {}, "k:{\"name\":\"POD_NAME\"}": {".": {}, "f:name": {}, "f:valueFrom": {".": {}, "f:fieldRef": {}}}});
        (0..variables).for_each(|n| env[format!("k:{{\"name\":\"{}\"}}", variable(n))] = own());
        json!({
            ".": {}, "f:args": {}, "f:env": env, "f:envFrom": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
            "f:livenessProbe": {".": {}, "f:failureThreshold": {}, "f:httpGet": {".": {}, "f:path": {}, "f:port": {}, "f:scheme": {}}, "f:periodSeconds": {}},
            "f:ports": {".": {}, "k:{\"containerPort\":8080,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:name": {}, "f:protocol": {}}},
            "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}, "f:memory": {}}, "f:requests": {".": {}, "f:cpu": {}, "f:memory": {}}},
            "f:securityContext": {".": {}, "f:allowPrivilegeEscalation": {}, "f:capabilities": {".": {}, "f:drop": {}}, "f:readOnlyRootFilesystem": {}},
            "f:volumeMounts": {".": {}, "k:{\"mountPath\":\"/work\"}": {".": {}, "f:mountPath": {}, "f:name": {}}, "k:{\"mountPath\":\"/tmp\"}": {".": {}, "f:mountPath": {}, "f:name": {}}}
        })
    };
    json!({
        "f:metadata": {"f:annotations": {".": {}, "f:checksum/config": {}}, "f:generateName": {}, "f:labels": {".": {}, "f:app.kubernetes.io/name": {}, "f:pod-template-hash": {}},
            "f:ownerReferences": {".": {}, "k:{\"uid\":\"0d5b5f3e-4f39-4f28-a2ba-3a2b6a4b1f0e\"}": {}}},
        "f:spec": {
            "f:containers": {"k:{\"name\":\"agent\"}": container(variables.div_ceil(2)), "k:{\"name\":\"proxy\"}": container(variables / 2)},
            "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {}, "f:terminationGracePeriodSeconds": {},
            "f:tolerations": {}, "f:volumes": {".": {}, "k:{\"name\":\"work\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}, "k:{\"name\":\"config\"}": {".": {}, "f:configMap": {}, "f:name": {}}}
        }
    })
}
