//! Names and addresses that an installation may be given.

use super::InstallError;

/// First part of the names of the namespaces that Kubernetes keeps for itself.
const KUBERNETES: &str = "kube-";

/// The namespace that Mandate lives in.
pub(super) fn home(name: String) -> Result<String, InstallError> {
    let name = namespace(name)?;
    if name.starts_with(KUBERNETES) { Err(InstallError::Home(name)) } else { Ok(name) }
}

fn namespace(name: String) -> Result<String, InstallError> {
    if is_label(&name) { Ok(name) } else { Err(InstallError::Namespace(name)) }
}

/// A namespace to be guarded by the Mandate that lives in `own`.
pub(super) fn guarded(name: String, own: &str) -> Result<String, InstallError> {
    let name = namespace(name)?;
    if name.starts_with(KUBERNETES) {
        return Err(InstallError::Kubernetes(name));
    }
    if name == own {
        return Err(InstallError::Own(name));
    }
    Ok(name)
}

pub(super) fn secret(name: String) -> Result<String, InstallError> {
    if name.len() <= 253 && name.split('.').all(is_label_of_any_length) { Ok(name) } else { Err(InstallError::Secret(name)) }
}

/// A kind of workload, as `GROUP/RESOURCE`.
pub(super) fn workload(kind: String) -> Result<String, InstallError> {
    let Some((group, resource)) = kind.split_once('/') else { return Err(InstallError::Workload(kind)) };
    // The group of a custom resource has a dot.
    if matches!(group, "" | "apps" | "batch" | "extensions") || group == crate::api::GROUP {
        return Err(InstallError::KnownWorkload(kind));
    }
    let good = group.contains('.') && group.len() <= 253 && group.split('.').all(is_label_of_any_length) && is_label(resource);
    if good { Ok(kind) } else { Err(InstallError::Workload(kind)) }
}

/// The address of a webhook, without a slash at its end. What passes here can still be no
/// host; the API server looks closer.
pub(super) fn address(url: String) -> Result<String, InstallError> {
    let bare = url.trim_end_matches('/');
    let host = bare.strip_prefix("https://").unwrap_or_default();
    let good =
        !host.is_empty() && !host.starts_with('/') && host.chars().all(|c| c.is_ascii_graphic() && !['?', '#', '@'].contains(&c));
    if good { Ok(bare.to_owned()) } else { Err(InstallError::Address(url)) }
}

fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_label_of_any_length(name)
}

fn is_label_of_any_length(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}
