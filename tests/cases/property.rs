//! What holds for every object, not only for those that somebody thought of.
