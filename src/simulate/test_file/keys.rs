//! The keys of a test file. The parser, its messages, the JSON Schema and the documentation use this table.

use crate::knob::{self, limit};
use crate::ledger::{Decision, Outcome};
use crate::schema::{Key, Kind, Object, join, optional, required};

/// Maximum number of processes in a test, so that a typing error does not fill memory.
const MAX_COUNT: i64 = 10_000;
pub(super) const PID: Kind = Kind::Integer(1, i32::MAX as i64);

pub static TEST_FILE: Object = Object::new(
    "a test file",
    &[
        optional(
            "rule_files",
            Kind::List(&Kind::Text),
            "The rules to test: paths or globs relative to this file. Default: those of `config_file`.",
        ),
        optional(
            "config_file",
            Kind::Text,
            "A configuration. Its process groups, protection, budget and identity apply.",
        ),
        optional("cpus", Kind::Integer(1, 8192), "Processors of the host. Default 4."),
        required(
            "tests",
            Kind::List(&Kind::Object(&TEST)),
            "The tests. Each one runs on its own host.",
        ),
    ],
);

pub static TEST: Object = Object::new(
    "a test",
    &[
        required("name", Kind::Text, "Name of the test in the output."),
        optional(
            "mode",
            Kind::Choice(&["enforce", "dry-run"]),
            "Mode of daemon and rules. Default: the daemon enforces, and a rule with `mode: dry-run` stays in dry-run.",
        ),
        optional(
            "source",
            Kind::Choice(&["alertmanager", "local"]),
            "Source of the alerts. Default alertmanager.",
        ),
        optional(
            "processes",
            Kind::List(&Kind::Object(&PROCESS)),
            "Processes that run at the start of the test.",
        ),
        optional(
            "cgroups",
            Kind::List(&Kind::Object(&CGROUP)),
            "Cgroups with values of their own. The cgroups of the processes exist in any case.",
        ),
        required(
            "timeline",
            Kind::List(&Kind::Object(&MOMENT)),
            "Events and expectations, in order of time.",
        ),
    ],
);

pub static PROCESS: Object = Object::new(
    "a process",
    &[
        required("pid", PID, "Its process id."),
        optional(
            "count",
            Kind::Integer(1, MAX_COUNT),
            "Number of identical processes, with consecutive pids. Default 1.",
        ),
        optional(
            "name",
            Kind::Text,
            "Name as the kernel keeps it, at most 15 bytes. Default: the file name of `exe`.",
        ),
        optional(
            "exe",
            Kind::Text,
            "Path of the executable; '' means unreadable. Default /usr/bin/NAME.",
        ),
        optional(
            "cmdline",
            Kind::Text,
            "Arguments joined by one space. Default: as `exe`.",
        ),
        optional("user", Kind::Text, "Name or number of its user. Default app."),
        optional("cgroup", Kind::Text, "Its cgroup. Default /system.slice/NAME.service."),
        optional(
            "age",
            Kind::Duration,
            "Time since it started. Default 1h, or 0s for `start`.",
        ),
        optional("memory", Kind::Size, "Resident memory. Default 10MiB."),
        optional(
            "cpu",
            Kind::Number(0.0, 10_000.0),
            "Processor cores that it uses. Default 0.",
        ),
        optional("threads", Kind::Integer(1, 1000), "Number of its threads. Default 1."),
        optional("nice", Kind::Integer(-20, 19), "Nice value of its threads. Default 0."),
        optional(
            "oom_score",
            Kind::Integer(0, 2000),
            "The kernel's OOM score of the process. Default 0.",
        ),
        optional("parent", PID, "Process id of its parent. Default 1."),
        optional(
            "state",
            Kind::Choice(&["R", "S", "D", "T", "Z"]),
            "State letter of proc(5). Default S.",
        ),
        optional(
            "kernel_thread",
            Kind::Flag,
            "Whether it is a kernel thread. Default false.",
        ),
        optional(
            "login_leader",
            Kind::Flag,
            "Whether it leads a login session. Default false.",
        ),
        optional(
            "ignores",
            Kind::List(&Kind::Text),
            "Fatal signals that do not kill it, such as SIGTERM.",
        ),
        optional(
            "catches",
            Kind::List(&Kind::Text),
            "Signals that it has a handler for, such as SIGUSR1.",
        ),
    ],
);

const GROUP_KEYS: &[Key] = &[
    required(
        "path",
        Kind::Text,
        "Its path, as in `cgroup` of a process. A cgroup with the name of a systemd unit is that unit.",
    ),
    optional("memory", Kind::Size, "Memory in use. Default 0."),
    optional(
        "reclaimable",
        Kind::Size,
        "Part of `memory` that the kernel can reclaim. Default 0.",
    ),
];

pub static CGROUP: Object = Object::new(
    "a control group",
    &join::<{ GROUP_KEYS.len() + LIMITS }>(&[
        GROUP_KEYS,
        &limits("In the kernel's format. Default: no limit, or a weight of 100."),
    ]),
);

/// The number of limits of a cgroup.
const LIMITS: usize = limit::KEYS.len();

/// A key for each limit of a cgroup.
const fn limits(about: &'static str) -> [Key; LIMITS] {
    let mut keys = join::<LIMITS>(&[limit::KEYS]);
    let mut index = 0;
    while index < LIMITS {
        keys[index].about = about;
        index += 1;
    }
    keys
}

pub static MOMENT: Object = Object::new(
    "a moment",
    &[
        required("at", Kind::Duration, "Time since the test began."),
        optional(
            "while",
            Kind::Flag,
            "Result of `while` of every rule from now on. Default true.",
        ),
        optional(
            "answer",
            Kind::Object(&ANSWER),
            "Answers of allocators and commands from now on. Before that, allocators do not answer and commands \
             succeed.",
        ),
        optional("start", Kind::List(&Kind::Object(&PROCESS)), "Processes start."),
        optional(
            "change",
            Kind::List(&Kind::Object(&PROCESS)),
            "Processes change, for example memory, processor use or program. Only the given keys change.",
        ),
        optional("exit", Kind::List(&PID), "Processes exit by themselves."),
        optional(
            "restart",
            Kind::List(&Kind::Text),
            "Units restart, given by the paths of their cgroups. Their cgroups are new ones afterwards.",
        ),
        optional("resolve", Kind::Texts, "The alert with these labels resolves."),
        optional(
            "fire",
            Kind::Texts,
            "An alert with these labels fires, or still fires. Without `instance` it is about this host.",
        ),
        optional(
            "expect",
            Kind::List(&Kind::Object(&EXPECTED)),
            "Every step that was applied or reverted since the last `expect`, in any order, and refusals.",
        ),
        optional(
            "values",
            Kind::List(&Kind::Object(&VALUES)),
            "Current values of processes and cgroups.",
        ),
    ],
);

pub static ANSWER: Object = Object::new(
    "an answer",
    &[
        optional(
            "status",
            Kind::Integer(100, 599),
            "HTTP status of allocators. Without it they do not answer.",
        ),
        optional("body", Kind::Json, "Body of their answers. Default empty."),
        optional("exit", Kind::Integer(0, 255), "Exit status of commands. Default 0."),
    ],
);

pub static EXPECTED: Object = Object::new(
    "an expectation",
    &[
        optional("rule", Kind::Text, "The rule of the step."),
        optional("pid", PID, "The target process."),
        optional("cgroup", Kind::Text, "The target cgroup."),
        optional(
            "step",
            Kind::Text,
            "The step as in the rule: `nice 10`, `signal SIGTERM`; `undo nice` for a reverted step.",
        ),
        optional(
            "decision",
            Kind::Choice(Decision::WORDS),
            "Reason why the step was not applied.",
        ),
        optional("outcome", Kind::Choice(Outcome::WORDS), "Outcome of the step."),
        optional("before", Kind::Text, "Value before the step."),
        optional("after", Kind::Text, "Value after the step."),
        optional("reason", Kind::Text, "Part of the recorded reason."),
    ],
);

const VALUE_KEYS: &[Key] = &[
    optional("pid", PID, "The process."),
    optional(
        "cgroup",
        Kind::Text,
        "The cgroup, by its path. An alternative to `pid`.",
    ),
    optional("alive", Kind::Flag, "Whether it still runs."),
];

pub static VALUES: Object = Object::new(
    "the values of a process or a control group",
    &join::<{ VALUE_KEYS.len() + knob::VALUE_KEYS.len() + LIMITS }>(&[
        VALUE_KEYS,
        knob::VALUE_KEYS,
        &limits("Limit of a cgroup, in the kernel's format."),
    ]),
);
