use super::super::frame::write_frame;
use super::*;
use crate::alert::receiver::{CountingInbox, Delivery, NotAccepted};
use crate::publish::request::{ContentType, MetricsRequest};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// Answers with the name of the request, with a long page, and panics when asked for readiness.
struct Echo;

impl MetricsService for Echo {
    async fn answer(&self, request: MetricsRequest) -> MetricsReply {
        let body = match request {
            MetricsRequest::Page(_) => vec![0; PAGE_BYTES],
            MetricsRequest::Readiness => panic!("of the test"),
            request => format!("{request:?}").into_bytes(),
        };
        MetricsReply::new(ReplyStatus::Ok, ContentType::Json, body)
    }
}

const CHANNEL_BYTES: usize = 256 * 1024;
const PAGE_BYTES: usize = CHANNEL_BYTES / 4;

/// A frontend whose messages the test writes.
struct Fixture {
    channel: BufReader<DuplexStream>,
    session: JoinHandle<SessionEnd>,
    telemetry: Telemetry,
    stop: watch::Sender<bool>,
}

fn start(inbox: impl Inbox) -> Fixture {
    start_with(inbox, ServedAccess::new("webhook", Access::open()))
}

fn start_with(inbox: impl Inbox, webhook_access: ServedAccess) -> Fixture {
    let telemetry = Telemetry::default();
    let services = Services {
        metrics: Arc::new(Echo),
        inbox: CountingInbox::new(inbox, telemetry.clone()),
        telemetry: telemetry.clone(),
        telemetry_path: "/metrics".to_owned(),
        metrics_access: ServedAccess::new("metrics", Access::open()),
        webhook_access,
        metrics_connections: 1,
        webhook_connections: 1,
        webhook_drained: Arc::default(),
    };
    let (channel, other) = tokio::io::duplex(CHANNEL_BYTES);
    let (input, output) = tokio::io::split(other);
    let (stop, stopping) = watch::channel(false);
    let session = tokio::spawn(serve(input, output, Arc::new(services), stopping));
    Fixture {
        channel: BufReader::new(channel),
        session,
        telemetry,
        stop,
    }
}

fn durable(delivery: Delivery) -> Result<(), NotAccepted> {
    let _ = delivery.reply.send(Receipt::Durable);
    Ok(())
}

impl Fixture {
    async fn started(inbox: impl Inbox) -> Fixture {
        let mut fixture = start(inbox);
        fixture.say(&started()).await;
        assert!(matches!(fixture.next().await, (ToFrontend::Configure(_), _)));
        fixture
    }

    async fn say(&mut self, message: &ToActuator) {
        self.write(&encode(message, &[]).unwrap()).await;
    }

    async fn ask(&mut self, id: u64, question: &str) {
        let question = serde_json::from_str(question).unwrap();
        self.say(&ToActuator::Ask { id, question }).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        // A session that has ended does not read.
        let _ = write_frame(&mut self.channel, bytes, &[]).await;
    }

    /// The next message that is no ping.
    async fn next(&mut self) -> (ToFrontend, Bytes) {
        loop {
            let frame = read_frame(&mut self.channel, TO_FRONTEND).await.unwrap();
            let frame = frame.expect("a message");
            let message = frame.decode().unwrap();
            if !matches!(message, ToFrontend::Ping) {
                return (message, frame.body);
            }
        }
    }

    async fn end(self) -> String {
        let Fixture { channel, session, .. } = self;
        let end = session.await.unwrap();
        drop(channel);
        end.to_string()
    }
}

fn started() -> ToActuator {
    let measures = Measure::OF_SERVER.map(|measure| (measure, Ok(())));
    ToActuator::Started(Report {
        measures: measures.into(),
        capabilities: crate::sandbox::CapabilitySet::empty(),
    })
}

const STATUS: &str = r#"{"Metrics":"StatusJson"}"#;
const ALERT: &str = r#"{"Deliver":{"alerts":[[{"a":"1"},{},"2026-01-01T00:00:00Z",null,"0123456789abcdef",null]],
    "invalid":0,"truncated":0,"age":{"secs":0,"nanos":0}}}"#;

#[tokio::test(flavor = "current_thread")]
async fn each_question_gets_one_answer() {
    let mut fixture = Fixture::started(durable).await;
    fixture.ask(7, STATUS).await;
    let (ToFrontend::Answer { id: 7, answer }, body) = fixture.next().await else {
        panic!("no answer")
    };
    assert!(matches!(answer, Answer::Metrics(head) if head.content == ContentType::Json));
    assert_eq!(body, "StatusJson");
    fixture.ask(8, ALERT).await;
    let answer = fixture.next().await.0;
    assert!(matches!(
        answer,
        ToFrontend::Answer {
            id: 8,
            answer: Answer::Receipt(Receipt::Durable)
        }
    ));
    for (known, is_known) in [(1, true), (2, false)] {
        fixture
            .ask(9, &format!(r#"{{"Access":{{"listener":"Webhook","known":{known}}}}}"#))
            .await;
        let answer = fixture.next().await.0;
        let ToFrontend::Answer {
            answer: Answer::Access(access),
            ..
        } = answer
        else {
            panic!("no answer")
        };
        assert_eq!(access.is_none(), is_known, "{known}");
    }
    assert!(
        fixture
            .telemetry
            .families()
            .iter()
            .any(|family| family.name == "evenkeel_alerts_received_total")
    );
    fixture.stop.send(true).unwrap();
    assert!(matches!(fixture.next().await.0, ToFrontend::Stop));
    fixture.channel.get_mut().shutdown().await.unwrap();
    assert!(fixture.end().await.contains("closed the channel"));
}

#[tokio::test(flavor = "current_thread")]
async fn panic_is_an_answer_and_ends_nothing() {
    let mut fixture = Fixture::started(durable).await;
    for id in 0..=MAX_METRICS as u64 {
        fixture.ask(id, r#"{"Metrics":"Readiness"}"#).await;
        let answer = fixture.next().await.0;
        let ToFrontend::Answer {
            answer: Answer::Metrics(head),
            ..
        } = answer
        else {
            panic!("no answer")
        };
        assert_eq!(head.status, ReplyStatus::Failed);
    }
    assert!(!fixture.session.is_finished());
}

#[tokio::test(flavor = "current_thread")]
async fn full_inbox_is_an_answer() {
    let mut fixture = Fixture::started(|_: Delivery| Err(NotAccepted::Full)).await;
    fixture.ask(1, ALERT).await;
    let answer = fixture.next().await.0;
    let ToFrontend::Answer {
        answer: Answer::Receipt(Receipt::Unavailable(reason)),
        ..
    } = answer
    else {
        panic!("no receipt")
    };
    assert!(reason.contains("full"), "{reason}");
}

#[tokio::test(flavor = "current_thread")]
async fn forged_messages_end_the_session() {
    let json = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        encode(&value, &[]).unwrap()
    };
    let alert = ALERT.replace("0123456789abcdef", "x");
    let long = TO_ACTUATOR.head_bytes as u32 + 1;
    for (bytes, says) in [
        (
            json(r#"{"Answer":{"id":1,"answer":{"Receipt":"Durable"}}}"#),
            "not a message",
        ),
        (
            json(r#"{"Ask":{"id":1,"question":{"Run":"/bin/sh"}}}"#),
            "not a message",
        ),
        (json(r#"{"Responded":{"code":999,"count":1}}"#), "999"),
        (json(r#"{"LogLinesDropped":18446744073709551615}"#), "log lines"),
        (
            json(&format!(r#"{{"Ask":{{"id":1,"question":{alert}}}}}"#)),
            "no decoder returns",
        ),
        (encode(&started(), &[]).unwrap(), "second first message"),
        ([long.to_be_bytes(), [0; 4]].concat(), "more than a frame may have"),
        ([[0; 4], 1_u32.to_be_bytes()].concat(), "more than a frame may have"),
    ] {
        let mut fixture = Fixture::started(durable).await;
        fixture.write(&bytes).await;
        let end = fixture.end().await;
        assert!(
            end.starts_with("it sent a message that is not allowed") && end.contains(says),
            "{end}"
        );
    }
    let mut fixture = start(durable);
    fixture.ask(1, STATUS).await;
    assert!(fixture.end().await.contains("before the first one"));
}

#[tokio::test(flavor = "current_thread")]
async fn more_questions_than_allowed_end_the_session() {
    let kept = Mutex::new(Vec::new());
    let inbox = move |delivery| {
        kept.lock().unwrap().push(delivery);
        Ok(())
    };
    let mut fixture = Fixture::started(inbox).await;
    for id in 0..=MAX_DELIVERIES as u64 {
        assert!(!fixture.session.is_finished());
        fixture.ask(id, ALERT).await;
    }
    assert!(fixture.end().await.contains("more questions at once"));
}

#[tokio::test(flavor = "current_thread")]
async fn access_rules_do_not_wait_for_scrapes_or_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "known").unwrap();
    let access = ServedAccess::new("webhook", Access::open().with_token_file(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // It writes nothing, so that reading blocks until the end of the test.
    let _writer = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut fixture = start_with(durable, access);
    fixture.say(&started()).await;
    let ToFrontend::Configure(settings) = fixture.next().await.0 else {
        panic!("no settings")
    };
    assert_eq!(settings.webhook_access.version, 1);
    for id in 0..3 {
        fixture.ask(id, r#"{"Access":{"listener":"Webhook","known":1}}"#).await;
        fixture.ask(10 + id, STATUS).await;
        assert!(matches!(fixture.next().await.0, ToFrontend::Answer { id: 10.., .. }));
        let ToFrontend::Answer { answer, .. } = fixture.next().await.0 else {
            panic!("no answer")
        };
        assert!(matches!(answer, Answer::Access(None)));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn more_access_questions_than_allowed_end_the_session() {
    let mut fixture = Fixture::started(durable).await;
    for id in 0..=MAX_ACCESS as u64 {
        fixture.ask(id, r#"{"Access":{"listener":"Webhook","known":0}}"#).await;
    }
    assert!(fixture.end().await.contains("more questions at once"));
}

#[tokio::test(flavor = "current_thread")]
async fn large_delivery_delays_no_answer_and_is_charged_by_its_memory() {
    let kept = Mutex::new(Vec::new());
    let inbox = move |delivery| {
        kept.lock().unwrap().push(delivery);
        Ok(())
    };
    let mut fixture = Fixture::started(inbox).await;
    let labels: Vec<String> = (0..MAX_DELIVERIES_KIB * 24)
        .map(|name| format!("\"{name:x}\":\"1\""))
        .collect();
    let large = ALERT.replace(r#""a":"1""#, &labels.join(","));
    assert!(large.len() < TO_ACTUATOR.head_bytes, "{}", large.len());
    fixture.ask(1, &large).await;
    fixture.ask(2, ALERT).await;
    fixture.ask(3, STATUS).await;
    let limit = Duration::from_secs(120);
    // The status comes first, although the others were asked before.
    let first = tokio::time::timeout(limit, fixture.next()).await.expect("an answer").0;
    assert!(matches!(first, ToFrontend::Answer { id: 3, .. }));
    // The large one is kept, alone.
    let second = tokio::time::timeout(limit, fixture.next()).await.expect("an answer").0;
    let ToFrontend::Answer {
        id: 2,
        answer: Answer::Receipt(Receipt::Unavailable(reason)),
    } = second
    else {
        panic!("another answer")
    };
    assert!(reason.contains("too many"), "{reason}");
}

#[tokio::test(flavor = "current_thread")]
async fn frontend_that_does_not_read_is_stalled() {
    let mut fixture = Fixture::started(durable).await;
    // More answers than the channel holds, of which none is read.
    for id in 0..8 {
        fixture.ask(id, r#"{"Metrics":{"Page":null}}"#).await;
    }
    assert!(fixture.end().await.contains("did not read"));
}
