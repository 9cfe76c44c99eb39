//! `timex`: synchronisation of the kernel's clock, from `adjtimex(2)`.

use super::info::{CollectorInfo, Pace};
use crate::family::Family;
use crate::sense::runtime::kernel_file::ReadError;
use nix::libc;

/// The published metrics.
const METRICS: &str = "\
    node_timex_estimated_error_seconds node_timex_frequency_adjustment_ratio node_timex_loop_time_constant \
    node_timex_maxerror_seconds node_timex_offset_seconds node_timex_pps_calibration_total \
    node_timex_pps_error_total node_timex_pps_frequency_hertz node_timex_pps_jitter_seconds \
    node_timex_pps_jitter_total node_timex_pps_shift_seconds node_timex_pps_stability_exceeded_total \
    node_timex_pps_stability_hertz node_timex_status node_timex_sync_status node_timex_tai_offset_seconds \
    node_timex_tick_seconds";

pub const INFO: CollectorInfo = CollectorInfo::on("timex", Pace::Scrape, "discipline of the clock", METRICS, |_| {
    Box::new(|_| read_timex())
});

/// Scale of frequencies: parts per million with a 16-bit fraction.
const PPM_SCALE: f64 = 1e6 * 65536.0;

const MICROSECOND: f64 = 1e6;

/// Families from a `timex`; `state` is the return value of `adjtimex`.
fn families(timex: &libc::timex, state: i32) -> Vec<Family> {
    // Offset and jitter are in nanoseconds with STA_NANO, else in microseconds.
    let fine = if timex.status & libc::STA_NANO != 0 {
        1e9
    } else {
        MICROSECOND
    };
    let gauge = |name: &'static str, help: &'static str, value: f64| Family::gauge(name, help).value(value);
    let counter = |name: &'static str, help: &'static str, value: f64| Family::counter(name, help).value(value);
    vec![
        gauge(
            "node_timex_sync_status",
            "1 where the clock is kept in step with a reference.",
            f64::from(state != libc::TIME_ERROR),
        ),
        gauge(
            "node_timex_offset_seconds",
            "Offset between clock and reference.",
            timex.offset as f64 / fine,
        ),
        gauge(
            "node_timex_frequency_adjustment_ratio",
            "Correction of the clock's frequency; 1 is none.",
            1.0 + timex.freq as f64 / PPM_SCALE,
        ),
        gauge(
            "node_timex_maxerror_seconds",
            "Largest error of the clock.",
            timex.maxerror as f64 / MICROSECOND,
        ),
        gauge(
            "node_timex_estimated_error_seconds",
            "Estimated error of the clock.",
            timex.esterror as f64 / MICROSECOND,
        ),
        gauge(
            "node_timex_status",
            "Status bits of the clock (STA_*).",
            f64::from(timex.status),
        ),
        gauge(
            "node_timex_loop_time_constant",
            "Time constant of the phase-locked loop.",
            timex.constant as f64,
        ),
        gauge(
            "node_timex_tick_seconds",
            "Seconds between two ticks.",
            timex.tick as f64 / MICROSECOND,
        ),
        gauge(
            "node_timex_pps_frequency_hertz",
            "Frequency of the pulse per second.",
            timex.ppsfreq as f64 / PPM_SCALE,
        ),
        gauge(
            "node_timex_pps_jitter_seconds",
            "Jitter of the pulse per second.",
            timex.jitter as f64 / fine,
        ),
        gauge(
            "node_timex_pps_shift_seconds",
            "Interval of the pulse per second.",
            f64::from(timex.shift),
        ),
        gauge(
            "node_timex_pps_stability_hertz",
            "Stability of the pulse per second.",
            timex.stabil as f64 / PPM_SCALE,
        ),
        counter(
            "node_timex_pps_jitter_total",
            "Times that the jitter was too large.",
            timex.jitcnt as f64,
        ),
        counter(
            "node_timex_pps_calibration_total",
            "Calibrations by the pulse per second.",
            timex.calcnt as f64,
        ),
        counter(
            "node_timex_pps_error_total",
            "Calibrations that failed.",
            timex.errcnt as f64,
        ),
        counter(
            "node_timex_pps_stability_exceeded_total",
            "Times that stability was lost.",
            timex.stbcnt as f64,
        ),
        gauge(
            "node_timex_tai_offset_seconds",
            "Seconds between TAI and UTC.",
            f64::from(timex.tai),
        ),
    ]
}

pub fn read_timex() -> Result<Vec<Family>, ReadError> {
    // SAFETY: all zeros is a valid `timex`, and with no `modes` the kernel only fills it in.
    let (timex, state) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        let state = libc::adjtimex(&raw mut timex);
        (timex, state)
    };
    if state < 0 {
        let error = std::io::Error::last_os_error();
        // The kernel allows everyone to read. The filter of the shipped unit does not, because one system call reads and
        // sets the clock.
        return Err(match error.kind() {
            std::io::ErrorKind::PermissionDenied => ReadError::Absent("a sandbox that forbids adjtimex(2)"),
            _ => ReadError::System(format!("adjtimex: {error}")),
        });
    }
    Ok(families(&timex, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::fixture::text_of;

    #[test]
    fn units_follow_the_status_bits() {
        // SAFETY: all zeros is a valid `timex`.
        let mut timex: libc::timex = unsafe { std::mem::zeroed() };
        timex.offset = 1_500_000;
        timex.freq = 65536 * 100;
        let of = |timex: &libc::timex, state, name: &str| text_of(&families(timex, state), name).remove(0);
        assert_eq!(of(&timex, 0, "node_timex_offset"), "node_timex_offset_seconds 1.5");
        assert_eq!(of(&timex, 0, "sync_status"), "node_timex_sync_status 1");
        assert_eq!(
            of(&timex, 0, "frequency_adj"),
            "node_timex_frequency_adjustment_ratio 1.0001"
        );
        timex.status = libc::STA_NANO;
        assert_eq!(
            of(&timex, libc::TIME_ERROR, "node_timex_offset"),
            "node_timex_offset_seconds 0.0015"
        );
        assert_eq!(of(&timex, libc::TIME_ERROR, "sync_status"), "node_timex_sync_status 0");
    }

    #[test]
    fn adjtimex_changes_nothing() {
        assert_eq!(read_timex().unwrap().len(), 17);
    }
}
