//! A parser of the socket tables `/proc/net/{udp,tcp}{,6}` (proc_pid_net(5)) for `udp_queues` and `tcpstat`.

use crate::sense::runtime::kernel_file::{ParseError, ReadError};
use crate::sense::runtime::roots::Roots;

/// One line of a table: state, and bytes queued to be sent and to be read.
pub struct Socket {
    pub state: u8,
    pub send_bytes: f64,
    pub receive_bytes: f64,
}

fn parse_line(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(3);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let (send, receive) = fields.next()?.split_once(':')?;
    let bytes = |text| Some(u32::from_str_radix(text, 16).ok()?.into());
    Some(Socket {
        state,
        send_bytes: bytes(send)?,
        receive_bytes: bytes(receive)?,
    })
}

/// Folds the sockets of a table. A busy host has hundreds of thousands, of 150 bytes each, so the table is never in
/// memory as a whole.
pub fn fold_sockets<T>(
    roots: &Roots,
    path: &str,
    value: T,
    mut add: impl FnMut(&mut T, &Socket),
) -> Result<T, ReadError> {
    let mut is_head = true;
    roots.fold_rows(path, value, |value, line, bad| {
        if std::mem::take(&mut is_head) {
            return;
        }
        let socket = parse_line(line).ok_or_else(|| ParseError::text(line, "is not a socket"));
        bad.keep(socket).iter().for_each(|socket| add(value, socket));
    })
}

/// Tables for the tests of the collectors.
#[cfg(test)]
pub mod fixture {
    pub const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    pub fn table(sockets: &[(&str, &str)]) -> String {
        let line =
            |(state, queues): &(&str, &str)| format!("   0: 0100007F:0016 00000000:0000 {state} {queues} 00:0 0 0\n");
        format!("{HEAD}{}", sockets.iter().map(line).collect::<String>())
    }
}
