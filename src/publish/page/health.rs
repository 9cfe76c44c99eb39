//! Whether evenkeel works: the sentence that page and terminal show, and what is wrong. Pure.

use crate::telemetry::FrontendStatus;
use crate::terminal::count;

/// What the health depends on.
#[derive(Debug, Clone, Copy)]
pub struct Health<'a> {
    pub actuator_off: Option<&'a str>,
    pub frontend: Option<&'a FrontendStatus>,
    pub is_ledger_writable: bool,
    pub breakers_open: usize,
    pub is_config_in_force: bool,
}

impl Health<'_> {
    /// What does not work. Not escaped.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(reason) = self.actuator_off {
            faults.push(format!("the actuator is off ({reason})"));
        }
        if self.frontend.is_some_and(|frontend| frontend.since.is_none()) {
            faults.push("the frontend does not run".to_owned());
        }
        if !self.is_ledger_writable {
            faults.push("the ledger cannot be written, so only rules with without_ledger apply steps".to_owned());
        }
        if self.breakers_open > 0 {
            faults.push(count(self.breakers_open, "breaker") + " open");
        }
        if !self.is_config_in_force {
            faults.push("the last reload of the configuration failed".to_owned());
        }
        faults
    }

    /// What works where there are no faults: everything that a phone does not list.
    pub fn parts(&self) -> &'static str {
        match self.frontend {
            Some(_) => "ledger, configuration, actuator, frontend and breakers",
            None => "ledger, configuration, actuator and breakers",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: FrontendStatus = FrontendStatus {
        since: Some(jiff::Timestamp::UNIX_EPOCH),
        restarts: 0,
    };
    const HEALTHY: Health<'static> = Health {
        actuator_off: None,
        frontend: Some(&RUNNING),
        is_ledger_writable: true,
        breakers_open: 0,
        is_config_in_force: true,
    };

    #[test]
    fn every_part_has_its_fault() {
        assert_eq!(HEALTHY.faults(), [""; 0]);
        let stopped = FrontendStatus {
            since: None,
            restarts: 1,
        };
        for (health, part, fault) in [
            (
                Health {
                    actuator_off: Some("no boot id"),
                    ..HEALTHY
                },
                "actuator",
                "the actuator is off (no boot id)",
            ),
            (
                Health {
                    frontend: Some(&stopped),
                    ..HEALTHY
                },
                "frontend",
                "the frontend does not run",
            ),
            (
                Health {
                    is_ledger_writable: false,
                    ..HEALTHY
                },
                "ledger",
                "the ledger cannot be written, so only rules with without_ledger apply steps",
            ),
            (
                Health {
                    breakers_open: 2,
                    ..HEALTHY
                },
                "breaker",
                "2 breakers open",
            ),
            (
                Health {
                    is_config_in_force: false,
                    ..HEALTHY
                },
                "configuration",
                "the last reload of the configuration failed",
            ),
        ] {
            assert_eq!(health.faults(), [fault]);
            assert!(HEALTHY.parts().contains(part), "{part}");
        }
    }
}
