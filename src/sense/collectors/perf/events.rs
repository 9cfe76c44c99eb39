//! The events of perf_event_open(2) that node_exporter counts, with their metrics.

/// The groups that flags choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventGroup {
    Hardware,
    Software,
    Cache,
}

impl EventGroup {
    pub const ALL: [EventGroup; 3] = [EventGroup::Hardware, EventGroup::Software, EventGroup::Cache];

    /// As in `--collector.perf.NAME-profilers`.
    pub const fn name(self) -> &'static str {
        match self {
            EventGroup::Hardware => "hardware",
            EventGroup::Software => "software",
            EventGroup::Cache => "cache",
        }
    }

    /// `perf_event_attr.type`
    pub const fn kind(self) -> u32 {
        match self {
            EventGroup::Hardware => 0,
            EventGroup::Software => 1,
            EventGroup::Cache => 3,
        }
    }
}

/// An event that a processor or the kernel counts.
#[derive(Debug)]
pub struct PerfEvent {
    pub group: EventGroup,
    /// The name in `--collector.perf.*-profilers`.
    pub flag: &'static str,
    pub metric: &'static str,
    pub help: &'static str,
    /// `perf_event_attr.config`
    pub config: u64,
}

const fn hardware(config: u64, flag: &'static str, metric: &'static str, help: &'static str) -> PerfEvent {
    PerfEvent {
        group: EventGroup::Hardware,
        flag,
        metric,
        help,
        config,
    }
}

const fn software(config: u64, flag: &'static str, metric: &'static str, help: &'static str) -> PerfEvent {
    PerfEvent {
        group: EventGroup::Software,
        flag,
        metric,
        help,
        config,
    }
}

/// An event of a cache: which one, the operation and its result.
const fn cache(
    [id, operation, result]: [u64; 3],
    flag: &'static str,
    metric: &'static str,
    help: &'static str,
) -> PerfEvent {
    PerfEvent {
        group: EventGroup::Cache,
        flag,
        metric,
        help,
        config: id | operation << 8 | result << 16,
    }
}

const L1_DATA: u64 = 0;
const L1_INSTRUCTIONS: u64 = 1;
const LAST_LEVEL: u64 = 2;
const DATA_TLB: u64 = 3;
const INSTRUCTION_TLB: u64 = 4;
const BRANCHES: u64 = 5;
const READ: u64 = 0;
const WRITE: u64 = 1;
/// The kernel counts accesses under the name of hits.
const HIT: u64 = 0;
const MISS: u64 = 1;

pub const EVENTS: [PerfEvent; 30] = [
    hardware(
        0,
        "CpuCycles",
        "node_perf_cpucycles_total",
        "Cycles, which are slower or faster with the frequency.",
    ),
    hardware(1, "CpuInstr", "node_perf_instructions_total", "Instructions."),
    hardware(
        2,
        "CacheRef",
        "node_perf_cache_refs_total",
        "Accesses of the last cache.",
    ),
    hardware(
        3,
        "CacheMisses",
        "node_perf_cache_misses_total",
        "Misses of the last cache.",
    ),
    hardware(4, "BranchInstr", "node_perf_branch_instructions_total", "Branches."),
    hardware(
        5,
        "BranchMisses",
        "node_perf_branch_misses_total",
        "Branches that were predicted wrongly.",
    ),
    hardware(
        8,
        "StalledCyclesBackend",
        "node_perf_stalled_cycles_backend_total",
        "Cycles that waited for the execution.",
    ),
    hardware(
        7,
        "StalledCyclesFrontend",
        "node_perf_stalled_cycles_frontend_total",
        "Cycles that waited for instructions.",
    ),
    hardware(
        9,
        "RefCpuCycles",
        "node_perf_ref_cpucycles_total",
        "Cycles at a constant frequency.",
    ),
    software(2, "PageFault", "node_perf_page_faults_total", "Page faults."),
    software(
        3,
        "ContextSwitch",
        "node_perf_context_switches_total",
        "Context switches.",
    ),
    software(
        4,
        "CpuMigration",
        "node_perf_cpu_migrations_total",
        "Tasks that moved to another processor.",
    ),
    software(
        5,
        "MinorFault",
        "node_perf_minor_faults_total",
        "Page faults without a read of the disk.",
    ),
    software(
        6,
        "MajorFault",
        "node_perf_major_faults_total",
        "Page faults with a read of the disk.",
    ),
    cache(
        [L1_DATA, READ, HIT],
        "L1DataReadHit",
        "node_perf_cache_l1d_read_hits_total",
        "Reads of the first data cache.",
    ),
    cache(
        [L1_DATA, READ, MISS],
        "L1DataReadMiss",
        "node_perf_cache_l1d_read_misses_total",
        "Reads that missed the first data cache.",
    ),
    cache(
        [L1_DATA, WRITE, HIT],
        "L1DataWriteHit",
        "node_perf_cache_l1d_write_hits_total",
        "Writes to the first data cache.",
    ),
    cache(
        [L1_INSTRUCTIONS, READ, MISS],
        "L1InstrReadMiss",
        "node_perf_cache_l1_instr_read_misses_total",
        "Reads that missed the first instruction cache.",
    ),
    cache(
        [LAST_LEVEL, READ, HIT],
        "LLReadHit",
        "node_perf_cache_ll_read_hits_total",
        "Reads of the last cache.",
    ),
    cache(
        [LAST_LEVEL, READ, MISS],
        "LLReadMiss",
        "node_perf_cache_ll_read_misses_total",
        "Reads that missed the last cache.",
    ),
    cache(
        [LAST_LEVEL, WRITE, HIT],
        "LLWriteHit",
        "node_perf_cache_ll_write_hits_total",
        "Writes to the last cache.",
    ),
    cache(
        [LAST_LEVEL, WRITE, MISS],
        "LLWriteMiss",
        "node_perf_cache_ll_write_misses_total",
        "Writes that missed the last cache.",
    ),
    cache(
        [INSTRUCTION_TLB, READ, HIT],
        "InstrTLBReadHit",
        "node_perf_cache_tlb_instr_read_hits_total",
        "Addresses of instructions that were looked up.",
    ),
    cache(
        [INSTRUCTION_TLB, READ, MISS],
        "InstrTLBReadMiss",
        "node_perf_cache_tlb_instr_read_misses_total",
        "Addresses of instructions that were not cached.",
    ),
    cache(
        [DATA_TLB, READ, HIT],
        "DataTLBReadHit",
        "node_perf_cache_tlb_data_read_hits_total",
        "Addresses of reads that were looked up.",
    ),
    cache(
        [DATA_TLB, READ, MISS],
        "DataTLBReadMiss",
        "node_perf_cache_tlb_data_read_misses_total",
        "Addresses of reads that were not cached.",
    ),
    cache(
        [DATA_TLB, WRITE, HIT],
        "DataTLBWriteHit",
        "node_perf_cache_tlb_data_write_hits_total",
        "Addresses of writes that were looked up.",
    ),
    cache(
        [DATA_TLB, WRITE, MISS],
        "DataTLBWriteMiss",
        "node_perf_cache_tlb_data_write_misses_total",
        "Addresses of writes that were not cached.",
    ),
    cache(
        [BRANCHES, READ, HIT],
        "BPUReadHit",
        "node_perf_cache_bpu_read_hits_total",
        "Branches that the prediction looked up.",
    ),
    cache(
        [BRANCHES, READ, MISS],
        "BPUReadMiss",
        "node_perf_cache_bpu_read_misses_total",
        "Branches that the prediction did not know.",
    ),
];
