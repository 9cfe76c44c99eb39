//! Any bytes on the channels from the frontend and from the runner: a message within its bounds, or an error.
#![no_main]

use evenkeel::app::frontend::frame::read_frame;
use evenkeel::app::frontend::message::{Question, TO_ACTUATOR, ToActuator, checked_code};
use evenkeel::host::runner::channel::{self, Answer};
use libfuzzer_sys::fuzz_target;
use std::cell::OnceCell;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

thread_local! {
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
}

/// Receives the messages of a channel up to its first fault.
fn receive(mut bytes: &[u8]) {
    RUNTIME.with(|runtime| {
        let runtime = runtime.get_or_init(|| Builder::new_current_thread().build().expect("a runtime"));
        runtime.block_on(async {
            loop {
                let message = match read_frame(&mut bytes, TO_ACTUATOR).await {
                    Ok(None) => return,
                    Ok(Some(frame)) => frame.decode::<ToActuator>(),
                    Err(error) => Err(error),
                };
                match message {
                    Ok(message) => check(message),
                    Err(error) => return assert!(!error.to_string().is_empty()),
                }
            }
        });
    });
}

fn check(message: ToActuator) {
    match message {
        ToActuator::Ask {
            question: Question::Deliver(alerts),
            ..
        } => {
            let now = Instant::now();
            let Ok(delivery) = alerts.into_delivery(now, oneshot::channel().0) else {
                return;
            };
            assert!(now.duration_since(delivery.received_at) <= Duration::from_secs(60));
            for alert in &*delivery.alerts {
                assert!(alert.fingerprint.len() == 16 && !alert.labels.is_empty());
            }
        }
        ToActuator::Responded { code, .. } => {
            let is_known = checked_code(code).is_ok();
            assert!(!is_known || (200..=503).contains(&code));
        }
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    // As the frames of a stream, and as the head of one frame.
    receive(data);
    let length = u32::try_from(data.len()).expect("a short input").to_be_bytes();
    receive(&[&length[..], &[0; 4], data].concat());
    let _: Result<Answer, _> = channel::decode(data);
});
