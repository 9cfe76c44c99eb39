//! `xfrm`: errors of IPsec, from `/proc/net/xfrm_stat` (Documentation/networking/xfrm_proc.rst).

use super::family_set::FamilySet;
use super::info::{CollectorInfo, Pace};
use crate::family::Family;
use crate::sense::runtime::bad_lines::BadLines;
use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::lines::lines;
use crate::sense::runtime::roots::Roots;

/// The published metrics.
const METRICS: &str = "\
    node_xfrm_acquire_error_packets_total node_xfrm_fwd_hdr_error_packets_total \
    node_xfrm_in_buffer_error_packets_total node_xfrm_in_error_packets_total node_xfrm_in_hdr_error_packets_total \
    node_xfrm_in_no_pols_packets_total node_xfrm_in_no_states_packets_total node_xfrm_in_pol_block_packets_total \
    node_xfrm_in_pol_error_packets_total node_xfrm_in_state_expired_packets_total \
    node_xfrm_in_state_invalid_packets_total node_xfrm_in_state_mismatch_packets_total \
    node_xfrm_in_state_mode_error_packets_total node_xfrm_in_state_proto_error_packets_total \
    node_xfrm_in_state_seq_error_packets_total node_xfrm_in_tmpl_mismatch_packets_total \
    node_xfrm_out_bundle_check_error_packets_total node_xfrm_out_bundle_gen_error_packets_total \
    node_xfrm_out_error_packets_total node_xfrm_out_no_states_packets_total node_xfrm_out_pol_block_packets_total \
    node_xfrm_out_pol_dead_packets_total node_xfrm_out_pol_error_packets_total \
    node_xfrm_out_state_expired_packets_total node_xfrm_out_state_invalid_packets_total \
    node_xfrm_out_state_mode_error_packets_total node_xfrm_out_state_proto_error_packets_total \
    node_xfrm_out_state_seq_error_packets_total";

pub const INFO: CollectorInfo = CollectorInfo::off("xfrm", Pace::Scrape, "errors of IPsec", METRICS, |_| {
    Box::new(read_xfrm)
});

/// Line, metric, help.
const COUNTERS: [(&str, &str, &str); 28] = [
    (
        "XfrmInError",
        "node_xfrm_in_error_packets_total",
        "Errors without a counter of their own.",
    ),
    (
        "XfrmInBufferError",
        "node_xfrm_in_buffer_error_packets_total",
        "Packets without a buffer.",
    ),
    (
        "XfrmInHdrError",
        "node_xfrm_in_hdr_error_packets_total",
        "Errors of the header.",
    ),
    (
        "XfrmInNoStates",
        "node_xfrm_in_no_states_packets_total",
        "Packets without a state.",
    ),
    (
        "XfrmInStateProtoError",
        "node_xfrm_in_state_proto_error_packets_total",
        "Errors of the protocol, such as a wrong key.",
    ),
    (
        "XfrmInStateModeError",
        "node_xfrm_in_state_mode_error_packets_total",
        "Errors of the mode.",
    ),
    (
        "XfrmInStateSeqError",
        "node_xfrm_in_state_seq_error_packets_total",
        "Sequence numbers outside the window.",
    ),
    (
        "XfrmInStateExpired",
        "node_xfrm_in_state_expired_packets_total",
        "Packets of an expired state.",
    ),
    (
        "XfrmInStateMismatch",
        "node_xfrm_in_state_mismatch_packets_total",
        "Packets whose options do not match the state.",
    ),
    (
        "XfrmInStateInvalid",
        "node_xfrm_in_state_invalid_packets_total",
        "Packets of an invalid state.",
    ),
    (
        "XfrmInTmplMismatch",
        "node_xfrm_in_tmpl_mismatch_packets_total",
        "Packets whose states match no template.",
    ),
    (
        "XfrmInNoPols",
        "node_xfrm_in_no_pols_packets_total",
        "Packets without a policy.",
    ),
    (
        "XfrmInPolBlock",
        "node_xfrm_in_pol_block_packets_total",
        "Packets that a policy discards.",
    ),
    (
        "XfrmInPolError",
        "node_xfrm_in_pol_error_packets_total",
        "Errors of a policy.",
    ),
    (
        "XfrmOutError",
        "node_xfrm_out_error_packets_total",
        "Sent packets with an error without a counter of its own.",
    ),
    (
        "XfrmOutBundleGenError",
        "node_xfrm_out_bundle_gen_error_packets_total",
        "Bundles that could not be made.",
    ),
    (
        "XfrmOutBundleCheckError",
        "node_xfrm_out_bundle_check_error_packets_total",
        "Bundles that failed a check.",
    ),
    (
        "XfrmOutNoStates",
        "node_xfrm_out_no_states_packets_total",
        "Sent packets without a state.",
    ),
    (
        "XfrmOutStateProtoError",
        "node_xfrm_out_state_proto_error_packets_total",
        "Errors of the protocol while sending.",
    ),
    (
        "XfrmOutStateModeError",
        "node_xfrm_out_state_mode_error_packets_total",
        "Errors of the mode while sending.",
    ),
    (
        "XfrmOutStateSeqError",
        "node_xfrm_out_state_seq_error_packets_total",
        "Sequence numbers that overflowed.",
    ),
    (
        "XfrmOutStateExpired",
        "node_xfrm_out_state_expired_packets_total",
        "Sent packets of an expired state.",
    ),
    (
        "XfrmOutPolBlock",
        "node_xfrm_out_pol_block_packets_total",
        "Sent packets that a policy discards.",
    ),
    (
        "XfrmOutPolDead",
        "node_xfrm_out_pol_dead_packets_total",
        "Sent packets of a policy that is gone.",
    ),
    (
        "XfrmOutPolError",
        "node_xfrm_out_pol_error_packets_total",
        "Errors of a policy while sending.",
    ),
    (
        "XfrmFwdHdrError",
        "node_xfrm_fwd_hdr_error_packets_total",
        "Packets that must not be forwarded.",
    ),
    (
        "XfrmOutStateInvalid",
        "node_xfrm_out_state_invalid_packets_total",
        "Sent packets of an invalid state.",
    ),
    (
        "XfrmAcquireError",
        "node_xfrm_acquire_error_packets_total",
        "Packets whose state was not ready.",
    ),
];

/// Row of the table and count.
pub fn parse_xfrm(text: &str, bad: &mut BadLines) -> Result<Vec<(usize, f64)>, ParseError> {
    let counts = lines(text).filter_map(|line| {
        let (name, count) = line.split_once(|character: char| character.is_ascii_whitespace())?;
        let row = COUNTERS.iter().position(|(known, ..)| *known == name)?;
        let count = count.trim().parse().map_err(|_| ParseError::text(line, "has no count"));
        Some((row, bad.keep(count)?))
    });
    Ok(counts.collect())
}

pub fn read_xfrm(roots: &Roots) -> Result<Vec<Family>, ReadError> {
    let counts = roots.parse_lines_once("net/xfrm_stat", parse_xfrm);
    let mut set = FamilySet::default();
    for (row, count) in counts.map_err(|error| error.or_absent("no statistics of IPsec"))? {
        let (_, name, help) = COUNTERS[row];
        set.add(name, help, &[], count);
    }
    Ok(set.into_families())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::{Tree, text_of};

    #[test]
    fn known_counters_are_shown() {
        let tree = Tree::new();
        assert!(matches!(read_xfrm(&tree.roots), Err(ReadError::Absent(_))));
        tree.proc(
            "net/xfrm_stat",
            "XfrmInError \t1\nXfrmNew 2\nXfrmInHdrError x\nXfrmOutPolDead 7\n",
        );
        assert_eq!(
            text_of(&read_xfrm(&tree.roots).unwrap(), ""),
            [
                "node_xfrm_in_error_packets_total 1",
                "node_xfrm_out_pol_dead_packets_total 7"
            ]
        );
        assert_eq!(tree.roots.take_bad_lines().count, 1);
    }
}
