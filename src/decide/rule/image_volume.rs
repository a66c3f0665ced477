//! `image-volume`: a volume is filled from an image, into which nobody looks here.

use super::{Level, Rule};
use crate::decide::site::Site;

/// a volume is filled from an image, into which nobody looks here.
pub const RULE: Rule = Rule {
    id: "image-volume",
    level: Level::Advice,
    what: "a volume is filled from an image, into which nobody looks here.",
    why: "A key that was baked into an image is in every copy of it, and is in none of the fields that admission sees.",
    fix: "Have the image scanned for secrets where it is built, and let a policy allow it.",
    references: &["https://kubernetes.io/docs/concepts/storage/volumes/#image"],
    since: "0.1.0",
    allows: "references of images, best as beginnings such as `registry.example.com/scanned/*`",
    sites: &[Site {
        at: "spec.volumes[].image",
        field: ".reference",
        message: "volume `{volume.name}` is filled from image `{this.reference}`, in which a key would not be seen",
        help: "have the image scanned for secrets where it is built, then have the policy allow its reference for `image-volume`",
        allow: Some("this.reference"),
        ..Site::POD
    }],
    code: None,
};
