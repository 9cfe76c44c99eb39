"""What the process groups of the configuration use."""

from .panels import build, figure, graph, row, states, values_of

# The chosen groups of the chosen hosts.
GROUP = 'HOST, group=~"$group"'
NAME = "{{instance}} {{group}}"


def of(metric):
    return f"evenkeel_group_{metric}{{{GROUP}}}"


def rate(metric):
    return f"rate({of(metric)}[$__rate_interval])"


ROWS = [
    row(
        "At a glance",
        figure("Processes", "Processes in the groups; one that is in two groups counts twice.", "short",
               f"sum by (instance) ({of('processes')})", width=6),
        figure("Processor cores", "Processor cores that the groups use.", "short",
               f"sum by (instance) ({rate('cpu_seconds_total')})", width=6),
        figure("Memory", "Resident memory of the groups, shared pages once per process.", "bytes",
               f"sum by (instance) ({of('resident_bytes')})", width=6),
        figure("Fullest descriptor table", "The largest share of its limit of open files that any process has open.",
               "percentunit", f"max by (instance) ({of('worst_fd_ratio')})", width=6,
               steps=[(0.7, "orange"), (0.9, "red")]),
    ),
    row(
        "Processes",
        graph("Processes", "Processes in each group.", "short", (of("processes"), NAME)),
        graph("Threads", "Threads of each group.", "short", (of("threads"), NAME)),
        graph("Age of the oldest", "Time since the oldest member started: a fall is a restart.", "s",
              (f"time() - {of('oldest_start_time_seconds')}", NAME)),
        graph("States", "Members by what they do: running, sleeping, waiting for a disk, stopped, zombies.", "short",
              (f"{of('states')} > 0", NAME + " {{state}}"), width=12, stacked=True),
        states("Stopped by somebody", "Groups with stopped members: frozen by evenkeel, or by hand.",
               (f'sum by (instance, group) (evenkeel_group_states{{{GROUP}, state="stopped"}}) > bool 0', NAME),
               mappings=[("0", "none", "green"), ("1", "some", "orange")]),
    ),
    row(
        "CPU",
        graph("Processor time", "Processor cores in use, those of members that have ended included.", "short",
              (f"sum by (instance, group) ({rate('cpu_seconds_total')})", NAME), stacked=True),
        graph("Processor time by mode", "In programs (user) or in the kernel for them (system).", "short",
              (rate("cpu_seconds_total"), NAME + " {{mode}}")),
        graph("Context switches", "Switches of first threads: voluntary ones wait for something, involuntary ones were made to"
              " step aside.", "ops", (rate("context_switches_total"), NAME + " {{type}}")),
    ),
    row(
        "Memory",
        graph("Resident memory", "Memory that is in RAM, shared pages once per process.", "bytes",
              (of("resident_bytes"), NAME), stacked=True),
        graph("Swap", "Memory that is in swap.", "bytes", (of("swap_bytes"), NAME)),
        graph("Address space", "Memory that was asked for, used or not.", "bytes", (of("virtual_bytes"), NAME)),
        graph("Major page faults", "Page faults that had to wait for storage.", "ops",
              (rate("major_page_faults_total"), NAME), width=12),
        graph("Minor page faults", "Page faults that had not.", "ops", (rate("minor_page_faults_total"), NAME), width=12),
    ),
    row(
        "Storage and files",
        graph("Storage", "Bytes that had to be read from, or written to, storage (written is drawn below zero).", "Bps",
              (rate("read_bytes_total"), NAME + " read"), (rate("write_bytes_total"), NAME + " written"),
              mirrored="/written$/"),
        graph("Open files", "File descriptors that are open; only for groups with `metrics: [open_fds]`.", "short",
              (of("open_fds"), NAME)),
        graph("Fullest descriptor table", "The largest share of its limit that a member has open.", "percentunit",
              (of("worst_fd_ratio"), NAME), top=1),
    ),
]


def board():
    return build(
        "evenkeel-groups",
        "evenkeel / Process groups",
        "What the process groups of evenkeel's configuration use.",
        ROWS,
        of="evenkeel_group_processes",
        more_variables=[
            values_of("group", "Group", 'label_values(evenkeel_group_processes{job=~"$job", instance=~"$instance"}, group)')
        ],
    )
