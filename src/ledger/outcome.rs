//! The closed words for decisions, outcomes and operations.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant),* }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),*];
            /// The words of all, in the same order.
            pub const WORDS: &[&str] = &[$($word),*];

            /// The closed label value.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// `evenkeel_decisions_total{decision}`.
    Decision {
        Planned = "planned",
        DryRun = "dry_run",
        OtherHost = "other_host",
        Duplicate = "duplicate",
        Stale = "stale",
        Invalid = "invalid",
        Cooldown = "cooldown",
        Budget = "budget",
        Protected = "protected",
        Privilege = "privilege",
        TooManyMatches = "too_many_matches",
        NoTarget = "no_target",
        AwaitingEffect = "awaiting_effect",
        /// `while` is false, or the rule would need a `while` to choose another victim.
        Condition = "condition",
        Breaker = "breaker",
        Ledger = "ledger",
        Paused = "paused",
        BeyondLimit = "beyond_limit",
    }
}

words! {
    /// `evenkeel_actions_total{outcome}`.
    Outcome {
        Applied = "applied",
        AlreadySet = "already_set",
        DryRun = "dry_run",
        Gone = "gone",
        ChangedIdentity = "changed_identity",
        Superseded = "superseded",
        NoEffect = "no_effect",
        Denied = "denied",
        Failed = "failed",
        Cancelled = "cancelled",
        Restored = "restored",
        Expired = "expired",
        Granted = "granted",
        Released = "released",
    }
}

impl Outcome {
    /// Whether an operator must look at it: a step or a revert did not do what it should.
    pub const fn is_failure(self) -> bool {
        matches!(self, Outcome::Failed | Outcome::Denied | Outcome::NoEffect)
    }
}

words! {
    /// What an operator did with the daemon.
    Operation {
        Pause = "pause",
        Resume = "resume",
        Release = "release",
        CloseBreaker = "close_breaker",
        Reload = "reload",
    }
}
