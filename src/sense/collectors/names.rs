//! The names of all published metrics, with which `check` finds misspelt names in expressions. A test compares them
//! with the collectors.

/// Fixed names, and names from the kernel that every host has.
const NAMES: &str = "\
    evenkeel_cpu_busy_ratio evenkeel_cpu_busy_ratio_distribution_bucket evenkeel_cpu_busy_ratio_distribution_count \
    evenkeel_cpu_busy_ratio_distribution_sum evenkeel_filesystem_used_ratio evenkeel_group_context_switches_total \
    evenkeel_group_cpu_seconds_total evenkeel_group_major_page_faults_total evenkeel_group_minor_page_faults_total \
    evenkeel_group_oldest_start_time_seconds evenkeel_group_open_fds evenkeel_group_processes \
    evenkeel_group_read_bytes_total evenkeel_group_resident_bytes evenkeel_group_states evenkeel_group_swap_bytes \
    evenkeel_group_threads evenkeel_group_virtual_bytes evenkeel_group_worst_fd_ratio \
    evenkeel_group_write_bytes_total evenkeel_memory_used_ratio evenkeel_memory_used_ratio_distribution_bucket \
    evenkeel_memory_used_ratio_distribution_count evenkeel_memory_used_ratio_distribution_sum \
    evenkeel_network_receive_bytes_per_second evenkeel_network_transmit_bytes_per_second node_arp_entries \
    node_bonding_active node_bonding_slaves node_boot_time_seconds node_context_switches_total \
    node_cooling_device_cur_state node_cooling_device_max_state node_cpu_core_throttles_total \
    node_cpu_frequency_hertz node_cpu_frequency_max_hertz node_cpu_frequency_min_hertz \
    node_cpu_guest_seconds_total node_cpu_package_throttles_total node_cpu_scaling_frequency_hertz \
    node_cpu_scaling_frequency_max_hertz node_cpu_scaling_frequency_min_hertz node_cpu_seconds_total \
    node_disk_ata_rotation_rate_rpm node_disk_ata_write_cache node_disk_ata_write_cache_enabled \
    node_disk_device_mapper_info node_disk_discard_time_seconds_total node_disk_discarded_sectors_total \
    node_disk_discards_completed_total node_disk_discards_merged_total node_disk_filesystem_info \
    node_disk_flush_requests_time_seconds_total node_disk_flush_requests_total node_disk_info node_disk_io_now \
    node_disk_io_time_seconds_total node_disk_io_time_weighted_seconds_total node_disk_read_bytes_total \
    node_disk_read_time_seconds_total node_disk_reads_completed_total node_disk_reads_merged_total \
    node_disk_write_time_seconds_total node_disk_writes_completed_total node_disk_writes_merged_total \
    node_disk_written_bytes_total node_dmi_info node_edac_correctable_errors_total \
    node_edac_csrow_correctable_errors_total node_edac_csrow_uncorrectable_errors_total \
    node_edac_uncorrectable_errors_total node_entropy_available_bits node_entropy_pool_size_bits \
    node_filefd_allocated node_filefd_maximum node_filesystem_avail_bytes node_filesystem_device_error \
    node_filesystem_files node_filesystem_files_free node_filesystem_free_bytes node_filesystem_readonly \
    node_filesystem_size_bytes node_forks_total node_hwmon_beep_enabled node_hwmon_chip_names node_hwmon_fan_rpm \
    node_hwmon_in_volts node_hwmon_power_average_watt node_hwmon_sensor_label node_hwmon_temp_celsius \
    node_hwmon_temp_crit_celsius node_hwmon_temp_max_celsius node_hwmon_update_interval_seconds \
    node_hwmon_voltage_regulator_version node_interrupts_total node_intr_total node_load1 node_load15 node_load5 \
    node_md_blocks node_md_blocks_synced node_md_disks node_md_disks_required node_md_state \
    node_memory_Active_anon_bytes node_memory_Active_bytes node_memory_Active_file_bytes \
    node_memory_AnonHugePages_bytes node_memory_AnonPages_bytes node_memory_Balloon_bytes node_memory_Bounce_bytes \
    node_memory_Buffers_bytes node_memory_Cached_bytes node_memory_CmaFree_bytes node_memory_CmaTotal_bytes \
    node_memory_CommitLimit_bytes node_memory_Committed_AS_bytes node_memory_DirectMap1G_bytes \
    node_memory_DirectMap2M_bytes node_memory_DirectMap4k_bytes node_memory_Dirty_bytes \
    node_memory_FileHugePages_bytes node_memory_FilePmdMapped_bytes node_memory_HardwareCorrupted_bytes \
    node_memory_HugePages_Free node_memory_HugePages_Rsvd node_memory_HugePages_Surp node_memory_HugePages_Total \
    node_memory_Hugepagesize_bytes node_memory_Hugetlb_bytes node_memory_Inactive_anon_bytes \
    node_memory_Inactive_bytes node_memory_Inactive_file_bytes node_memory_KReclaimable_bytes \
    node_memory_KernelStack_bytes node_memory_Mapped_bytes node_memory_MemAvailable_bytes \
    node_memory_MemFree_bytes node_memory_MemTotal_bytes node_memory_Mlocked_bytes node_memory_NFS_Unstable_bytes \
    node_memory_PageTables_bytes node_memory_Percpu_bytes node_memory_SReclaimable_bytes \
    node_memory_SUnreclaim_bytes node_memory_SecPageTables_bytes node_memory_ShmemHugePages_bytes \
    node_memory_ShmemPmdMapped_bytes node_memory_Shmem_bytes node_memory_Slab_bytes node_memory_SwapCached_bytes \
    node_memory_SwapFree_bytes node_memory_SwapTotal_bytes node_memory_Unevictable_bytes \
    node_memory_VmallocChunk_bytes node_memory_VmallocTotal_bytes node_memory_VmallocUsed_bytes \
    node_memory_WritebackTmp_bytes node_memory_Writeback_bytes node_memory_Zswap_bytes node_memory_Zswapped_bytes \
    node_netstat_Icmp6_InErrors node_netstat_Icmp6_InMsgs node_netstat_Icmp6_OutMsgs node_netstat_Icmp_InErrors \
    node_netstat_Icmp_InMsgs node_netstat_Icmp_OutMsgs node_netstat_Ip6_InOctets node_netstat_Ip6_OutOctets \
    node_netstat_IpExt_InOctets node_netstat_IpExt_OutOctets node_netstat_Ip_Forwarding \
    node_netstat_TcpExt_ListenDrops node_netstat_TcpExt_ListenOverflows node_netstat_TcpExt_SyncookiesFailed \
    node_netstat_TcpExt_SyncookiesRecv node_netstat_TcpExt_SyncookiesSent node_netstat_TcpExt_TCPSynRetrans \
    node_netstat_TcpExt_TCPTimeouts node_netstat_Tcp_ActiveOpens node_netstat_Tcp_CurrEstab \
    node_netstat_Tcp_InErrs node_netstat_Tcp_InSegs node_netstat_Tcp_OutRsts node_netstat_Tcp_OutSegs \
    node_netstat_Tcp_PassiveOpens node_netstat_Tcp_RetransSegs node_netstat_Udp6_InDatagrams \
    node_netstat_Udp6_InErrors node_netstat_Udp6_NoPorts node_netstat_Udp6_OutDatagrams \
    node_netstat_Udp6_RcvbufErrors node_netstat_Udp6_SndbufErrors node_netstat_Udp_InDatagrams \
    node_netstat_Udp_InErrors node_netstat_Udp_NoPorts node_netstat_Udp_OutDatagrams node_netstat_Udp_RcvbufErrors \
    node_netstat_Udp_SndbufErrors node_network_address_assign_type node_network_carrier \
    node_network_carrier_changes_total node_network_carrier_down_changes_total \
    node_network_carrier_up_changes_total node_network_device_id node_network_dormant node_network_flags \
    node_network_iface_id node_network_iface_link node_network_iface_link_mode node_network_info \
    node_network_mtu_bytes node_network_name_assign_type node_network_net_dev_group node_network_protocol_type \
    node_network_receive_bytes_total node_network_receive_compressed_total node_network_receive_drop_total \
    node_network_receive_errs_total node_network_receive_fifo_total node_network_receive_frame_total \
    node_network_receive_multicast_total node_network_receive_nohandler_total node_network_receive_packets_total \
    node_network_speed_bytes node_network_transmit_bytes_total node_network_transmit_carrier_total \
    node_network_transmit_colls_total node_network_transmit_compressed_total node_network_transmit_drop_total \
    node_network_transmit_errs_total node_network_transmit_fifo_total node_network_transmit_packets_total \
    node_network_transmit_queue_length node_network_up node_nf_conntrack_entries node_nf_conntrack_entries_limit \
    node_nf_conntrack_stat_drop node_nf_conntrack_stat_early_drop node_nf_conntrack_stat_found \
    node_nf_conntrack_stat_ignore node_nf_conntrack_stat_insert node_nf_conntrack_stat_insert_failed \
    node_nf_conntrack_stat_invalid node_nf_conntrack_stat_search_restart node_os_info node_os_version \
    node_pressure_cpu_waiting_seconds_total node_pressure_io_stalled_seconds_total \
    node_pressure_io_waiting_seconds_total node_pressure_memory_stalled_seconds_total \
    node_pressure_memory_waiting_seconds_total node_processes_max_processes node_processes_max_threads \
    node_processes_pids node_processes_state node_processes_threads node_processes_threads_state \
    node_procs_blocked node_procs_running node_schedstat_running_seconds_total node_schedstat_timeslices_total \
    node_schedstat_waiting_seconds_total node_sockstat_FRAG6_inuse node_sockstat_FRAG6_memory \
    node_sockstat_FRAG_inuse node_sockstat_FRAG_memory node_sockstat_RAW6_inuse node_sockstat_RAW_inuse \
    node_sockstat_TCP6_inuse node_sockstat_TCP_alloc node_sockstat_TCP_inuse node_sockstat_TCP_mem \
    node_sockstat_TCP_mem_bytes node_sockstat_TCP_orphan node_sockstat_TCP_tw node_sockstat_UDP6_inuse \
    node_sockstat_UDPLITE6_inuse node_sockstat_UDPLITE_inuse node_sockstat_UDP_inuse node_sockstat_UDP_mem \
    node_sockstat_UDP_mem_bytes node_sockstat_sockets_used node_softnet_dropped_total node_softnet_processed_total \
    node_softnet_times_squeezed_total node_systemd_service_restart_total \
    node_systemd_socket_accepted_connections_total node_systemd_socket_current_connections \
    node_systemd_socket_refused_connections_total node_systemd_system_running \
    node_systemd_timer_last_trigger_seconds node_systemd_unit_start_time_seconds node_systemd_unit_state \
    node_systemd_unit_tasks_current node_systemd_unit_tasks_max node_systemd_units node_systemd_version \
    node_tcp_connection_states node_textfile_mtime_seconds node_textfile_scrape_error node_thermal_zone_temp \
    node_time_clocksource_available_info node_time_clocksource_current_info node_time_seconds \
    node_time_zone_offset_seconds node_timex_estimated_error_seconds node_timex_frequency_adjustment_ratio \
    node_timex_loop_time_constant node_timex_maxerror_seconds node_timex_offset_seconds \
    node_timex_pps_calibration_total node_timex_pps_error_total node_timex_pps_frequency_hertz \
    node_timex_pps_jitter_seconds node_timex_pps_jitter_total node_timex_pps_shift_seconds \
    node_timex_pps_stability_exceeded_total node_timex_pps_stability_hertz node_timex_status \
    node_timex_sync_status node_timex_tai_offset_seconds node_timex_tick_seconds node_udp_queues node_uname_info \
    node_vmstat_oom_kill node_vmstat_pgfault node_vmstat_pgmajfault node_vmstat_pgpgin node_vmstat_pgpgout \
    node_vmstat_pswpin node_vmstat_pswpout process_cpu_seconds_total process_max_fds process_open_fds \
    process_resident_memory_bytes process_start_time_seconds process_virtual_memory_bytes";

/// Prefixes of names that come from the kernel or a driver: any name with such a prefix may exist on some host.
const OPEN_ENDED: [&str; 5] = [
    "node_hwmon_",
    "node_memory_",
    "node_netstat_",
    "node_sockstat_",
    "node_vmstat_",
];

/// Every fixed name.
pub fn known() -> impl Iterator<Item = &'static str> {
    NAMES.split_ascii_whitespace()
}

/// Whether a collector may publish this name, here or on another host.
pub fn may_be_published(name: &str) -> bool {
    OPEN_ENDED.iter().any(|start| name.starts_with(start)) || known().any(|known| known == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::collectors::options::CollectorOptions;
    use crate::sense::collectors::registry::COLLECTORS;
    use crate::sense::runtime::roots::Roots;

    #[test]
    fn every_family_of_this_host_is_known() {
        let options = CollectorOptions::default();
        for collector in COLLECTORS {
            // A feature that this host lacks has no families.
            let Ok(families) = collector.build(&options)(&Roots::default()) else {
                continue;
            };
            for family in families {
                assert!(may_be_published(&family.name), "{} of {}", family.name, collector.name);
            }
        }
    }

    #[test]
    fn every_name_in_the_sources_is_known() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sense");
        let mut found = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_about_names = ["names.rs", "snapshot.rs", "fixture.rs"]
                .iter()
                .any(|file| path.ends_with(file));
            if is_about_names || path.extension().is_none_or(|ending| ending != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]").next().unwrap();
            for name in code.split('"').filter(|text| {
                let is_name = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                is_name
                    && ["node_", "evenkeel_", "process_"]
                        .iter()
                        .any(|start| text.starts_with(start))
            }) {
                found += 1;
                assert!(
                    known().any(|known| known == name) || OPEN_ENDED.contains(&name) || name == "process_groups",
                    "{name} of {path:?}"
                );
            }
        }
        assert!(found > 100, "only {found} names found");
    }
}
