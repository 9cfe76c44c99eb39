"""Resource use of the process groups in the configuration."""

from .panels import build, figure, graph, row, states, values_of

# The selected groups of the selected hosts.
GROUP = 'HOST, group=~"$group"'
NAME = "{{instance}} {{group}}"


def of(metric):
    return f"evenkeel_group_{metric}{{{GROUP}}}"


def rate(metric):
    return f"rate({of(metric)}[$__rate_interval])"


ROWS = [
    row(
        "At a glance",
        figure("Processes", "Processes in the groups. A process in two groups counts twice.", "short",
               f"sum({of('processes')})", width=6),
        figure("Processor cores", "Processor cores that the groups use.", "short",
               f"sum({rate('cpu_seconds_total')})", width=6),
        figure("Memory", "Resident memory of the groups. Shared pages count once per process.", "bytes",
               f"sum({of('resident_bytes')})", width=6),
        figure("Fullest descriptor table", "Open files as a share of the limit, for the process with the largest share.",
               "percentunit", f"max({of('worst_fd_ratio')})", width=6,
               steps=[(0.7, "orange"), (0.9, "red")]),
    ),
    row(
        "Processes",
        graph("Processes", "Processes in each group.", "short", (of("processes"), NAME)),
        graph("Threads", "Threads of each group.", "short", (of("threads"), NAME)),
        graph("Age of the oldest", "Time since the oldest member started. A drop is a restart.", "s",
              (f"time() - {of('oldest_start_time_seconds')}", NAME)),
        graph("States", "Members by state: running, sleeping, waiting for a disk, stopped, zombies.", "short",
              (f"{of('states')} > 0", NAME + " {{state}}"), width=12, stacked=True),
        states("Stopped members", "Groups with members that evenkeel or something else stopped.",
               (f'sum by (instance, group) (evenkeel_group_states{{{GROUP}, state="stopped"}}) > bool 0', NAME),
               mappings=[("0", "none", "green"), ("1", "some", "orange")]),
    ),
    row(
        "CPU",
        graph("Processor time", "Processor cores in use, including members that have exited.", "short",
              (f"sum by (instance, group) ({rate('cpu_seconds_total')})", NAME), stacked=True),
        graph("Processor time by mode", "Processor time in programs (user) and in the kernel for them (system).", "short",
              (rate("cpu_seconds_total"), NAME + " {{mode}}")),
        graph("Context switches", "Context switches of first threads. voluntary: the thread waits. involuntary: the kernel"
              " preempted the thread.", "ops", (rate("context_switches_total"), NAME + " {{type}}"),
              empty="No group has metrics: [context_switches]"),
    ),
    row(
        "Memory",
        graph("Resident memory", "Memory in RAM. Shared pages count once per process.", "bytes",
              (of("resident_bytes"), NAME), stacked=True),
        graph("Swap", "Swapped-out memory.", "bytes", (of("swap_bytes"), NAME), empty="No group has metrics: [swap]"),
        graph("Address space", "Reserved address space, used or not.", "bytes", (of("virtual_bytes"), NAME)),
        graph("Major page faults", "Page faults that had to wait for storage.", "ops",
              (rate("major_page_faults_total"), NAME), width=12),
        graph("Minor page faults", "Page faults that did not wait for storage.", "ops", (rate("minor_page_faults_total"), NAME), width=12),
    ),
    row(
        "Storage and files",
        graph("Storage", "Bytes read from and written to storage (written is below zero).", "Bps",
              (rate("read_bytes_total"), NAME + " read"), (rate("write_bytes_total"), NAME + " written"),
              mirrored="/written$/", empty="No group has metrics: [io]"),
        graph("Open files", "Open file descriptors, only for groups with `metrics: [open_fds]`.", "short",
              (of("open_fds"), NAME), empty="No group has metrics: [open_fds]"),
        graph("Fullest descriptor table", "Open files as a share of the limit, for the member with the largest share.", "percentunit",
              (of("worst_fd_ratio"), NAME), top=1, empty="No group has metrics: [open_fds]"),
    ),
]


def board():
    return build(
        "evenkeel-groups",
        "evenkeel / Process groups",
        "Resource use of the process groups in evenkeel's configuration.",
        ROWS,
        of="evenkeel_group_processes",
        more_variables=[
            values_of("group", "Group", 'label_values(evenkeel_group_processes{job=~"$job", instance=~"$instance"}, group)')
        ],
    )
