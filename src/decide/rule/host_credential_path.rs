//! `host-credential-path`: a volume mounts a directory of the node where credentials lie.

use super::{Code, Found, Level, Rule};
use crate::decide::json::Read as _;
use crate::decide::predicate::Cond;
use crate::decide::site::{On, Site, Subject};

/// a volume mounts a directory of the node where credentials lie.
pub const RULE: Rule = Rule {
    id: "host-credential-path",
    level: Level::Restricted,
    what: "a volume mounts a directory of the node where credentials lie.",
    why: "On the node lie the tokens and Secrets of all its pods, its own certificate and kubeconfig, keys of people, and the sockets of the container runtime, which is as good as root. Behind a claim it is seen where the claim and its volume are known: in manifests that are checked together, and with `mandate lint --cluster`.",
    fix: "Use an emptyDir, a PersistentVolumeClaim, or a directory of the node that holds nothing else.",
    references: &["https://kubernetes.io/docs/concepts/storage/volumes/#hostpath"],
    since: "0.1.0",
    allows: "paths as they are written in the volume",
    sites: &[
        Site {
            at: "spec.volumes[].hostPath.path",
            message: "volume `{volume.name}` mounts `{this}` of the node, where credentials of others lie",
            ..PATH
        },
        // The API server refuses such a path in a pod; a manifest or a template of a kind that it
        // does not know may have one, and no `allow` can be meant for it.
        Site {
            at: "spec.volumes[].hostPath.path",
            message: "volume `{volume.name}` mounts a directory of the node by a path with `..`, which may lead to any other",
            ..STEPS_BACK
        },
        Site { at: "spec.hostPath.path", message: IN_VOLUME, on: On::PersistentVolume, ..PATH },
        Site { at: "spec.hostPath.path", message: IN_VOLUME_BACK, on: On::PersistentVolume, ..STEPS_BACK },
        Site { at: "spec.local.path", message: IN_VOLUME, on: On::PersistentVolume, ..PATH },
        Site { at: "spec.local.path", message: IN_VOLUME_BACK, on: On::PersistentVolume, ..STEPS_BACK },
    ],
    code: Some(Code { look: claimed, lacks: "the claim and its volume" }),
};

const PATH: Site = Site {
    when: Cond::All(&[Cond::Matches("this", CREDENTIAL_PATH), Cond::Not(&Cond::Matches("this", BACKSTEP))]),
    help: "use an `emptyDir` or a PersistentVolumeClaim, or mount only the directory that is needed, such as `/var/log/pods`",
    allow: Some("this"),
    ..Site::POD
};
const STEPS_BACK: Site = Site { when: Cond::Matches("this", BACKSTEP), help: "write the path without `..`", ..Site::POD };
const IN_VOLUME: &str = "PersistentVolume `{metadata.name}` is `{this}` of a node, where credentials of others lie";
const IN_VOLUME_BACK: &str =
    "PersistentVolume `{metadata.name}` is a directory of a node by a path with `..`, which may lead to any other";

/// The pod's claims whose volume is such a directory.
fn claimed(pod: &Subject<'_>, found: &mut Vec<Found>) {
    for (v, volume) in pod.spec().items("volumes").iter().enumerate() {
        let Some(claim) = volume.member("persistentVolumeClaim").map(|claim| claim.text("claimName")) else { continue };
        let related = &pod.world.related;
        let behind = related.volume_of(pod.namespace, claim).into_iter();
        for note in behind.flat_map(|behind| related.notes(On::PersistentVolume, "", behind)).filter(|note| note.rule == RULE.id)
        {
            found.push(Found {
                path: pod.spec_path(&format!("volumes[{v}].persistentVolumeClaim.claimName")),
                message: format!(
                    "volume `{}` claims `{claim}`, whose PersistentVolume is a directory of a node where credentials of others lie",
                    volume.text("name")
                ),
                help: "claim a volume of a storage class, or use an `emptyDir`".to_owned(),
                allow: note.allow.clone().unwrap_or_default(),
            });
        }
    }
}

/// One separator or several, with `.` between them; Windows takes both kinds.
macro_rules! to {
    () => {
        r"[/\\]+(?:\.[/\\]+)*"
    };
}

/// The directory itself: what comes after its name may only be separators and `.`.
macro_rules! itself {
    () => {
        concat!(r"(?:", to!(), r"\.?)?$")
    };
}

/// The directory or file and everything below it.
macro_rules! below {
    () => {
        r"(?:[/\\]|$)"
    };
}

/// A path of a node, however it is spelled, at or below which credentials lie, or that is a
/// parent of such a one.
pub const CREDENTIAL_PATH: &str = concat!(
    r"^(?:[A-Za-z]:)?",
    to!(),
    r"(?:",
    // The root.
    r"\.?$",
    // The node's own configuration: kubeconfigs, keys, passwords.
    r"|etc(?:",
    itself!(),
    r"|",
    to!(),
    r"(?:(?:ceph|g?shadow-?|kubernetes|rancher|ssh)",
    below!(),
    r"|ssl(?:",
    itself!(),
    r"|",
    to!(),
    r"private",
    below!(),
    r")))",
    // Homes of people: themselves, and what is hidden in them, such as `.kube` and `.ssh`.
    r"|(?:home|Users)",
    itself!(),
    r"|(?:root|(?:home|Users)",
    to!(),
    r"[^/\\]+)(?:",
    itself!(),
    r"|",
    to!(),
    r"\.[0-9A-Za-z_-])",
    // Every process, with its files and its environment.
    r"|proc(?:",
    itself!(),
    r"|",
    to!(),
    r"(?:[0-9]+|kcore|self|thread-self)",
    below!(),
    r")",
    // Sockets of the container runtime, and file systems of running containers.
    r"|(?:var",
    to!(),
    r")?run(?:",
    itself!(),
    r"|",
    to!(),
    r"(?:containerd|cri-dockerd\.sock|crio|docker|docker\.sock|dockershim\.sock|k0s|k3s|podman|secrets)",
    below!(),
    r")",
    r"|pipe",
    to!(),
    r"(?:containerd-containerd|cri-dockerd|docker_engine)",
    below!(),
    // What the kubelet, etcd and the runtimes keep.
    r"|var(?:",
    itself!(),
    r"|",
    to!(),
    r"snap(?:",
    itself!(),
    r"|",
    to!(),
    r"microk8s",
    below!(),
    r")",
    r"|",
    to!(),
    r"lib(?:",
    itself!(),
    r"|",
    to!(),
    r"(?:",
    r"kubelet(?:",
    itself!(),
    r"|",
    to!(),
    r"(?:\.docker|\.dockercfg|bootstrap-kubeconfig|config\.json|kubeconfig|pki|pods)",
    below!(),
    r")",
    r"|(?:containerd|containers|cri-dockerd|crio|docker|etcd|k0s|k3s|minikube|rancher)",
    below!(),
    r")))",
    r")",
);

/// A path that takes a step back.
const BACKSTEP: &str = r"(?:^|[/\\])\.\.(?:[/\\]|$)";

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::*;

    #[test]
    fn spelling_parents_and_children_make_no_difference() {
        let path = Regex::new(CREDENTIAL_PATH).unwrap();
        for caught in [
            "/",
            "//",
            "/.",
            "/./",
            "/etc",
            "/etc/",
            "//etc",
            "/./etc/.",
            "/etc/./kubernetes",
            "/etc/kubernetes/pki/ca.key",
            "/etc/shadow",
            "/etc/ssl",
            "/etc/ssl/private",
            "/root",
            "/root/",
            "/root/.kube",
            "/home",
            "/home/alice",
            "/home/alice/.ssh/id_ed25519",
            "/proc",
            "/proc/1/root",
            "/proc/self/environ",
            "/run",
            "/var/run",
            "/run/secrets",
            "/var/run/docker.sock",
            "/var//run/./docker.sock",
            "/run/containerd/containerd.sock",
            "/run/crio/crio.sock",
            "/var",
            "/var/lib",
            "/var/lib/",
            "/var/lib/kubelet",
            "/var/lib/kubelet/pods",
            "/var/lib//kubelet/./pods/b5a2ec5d/volumes/kubernetes.io~secret",
            "/var/lib/kubelet/pki",
            "/var/lib/kubelet/config.json",
            "/var/lib/etcd",
            "/var/lib/etcd/member",
            "/var/lib/docker/containers",
            "/var/lib/containerd",
            "/var/lib/rancher/k3s",
            r"C:\",
            r"C:\var\lib\kubelet",
            r"\\.\pipe\docker_engine",
        ] {
            assert!(path.is_match(caught), "{caught}");
        }
        for passes in [
            "",
            "/data",
            "/etc/localtime",
            "/etc/ssl/certs",
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/kubernetes-data",
            "/etcetera",
            "/rootfs",
            "/home/alice/models",
            "/homes",
            "/proc/sys/net",
            "/proc/meminfo",
            "/run/udev",
            "/run/systemd",
            "/runs",
            "/var/log",
            "/var/log/pods",
            "/var/lib/kubelet/device-plugins",
            "/var/lib/kubelet/plugins",
            "/var/lib/kubelet/plugins_registry",
            "/var/lib/kubelet/pod-resources",
            "/var/lib/kubelet-data",
            "/var/lib/dockershim-data",
            "/var/lib/models",
            "/var/library",
            "/srv/etc",
            "/mnt/root",
            "/dev/shm",
            "/sys/fs/cgroup",
            "/lib/modules",
            "/opt/cni/bin",
            r"C:\data",
            r"\\.\pipe\agent",
        ] {
            assert!(!path.is_match(passes), "{passes}");
        }
    }

    #[test]
    fn a_step_back_is_a_whole_name() {
        let back = Regex::new(BACKSTEP).unwrap();
        for caught in ["..", "/..", "/data/../etc", "/data/..", r"C:\data\..\etc"] {
            assert!(back.is_match(caught), "{caught}");
        }
        for passes in ["/data/..hidden", "/data/a..b", "/data/...", "/"] {
            assert!(!back.is_match(passes), "{passes}");
        }
    }
}
