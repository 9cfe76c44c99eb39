//! The options of the collector `netdev`.

/// The switches of node_exporter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetdevOptions {
    /// `--collector.netdev.address-info`
    pub has_addresses: bool,
    /// `--collector.netdev.label-ifalias`
    pub has_aliases: bool,
    /// `--collector.netdev.enable-detailed-metrics`
    pub is_detailed: bool,
}
