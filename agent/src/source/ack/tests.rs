use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use ulid::Ulid;

use super::*;

fn history(number: u128) -> HistoryId {
    HistoryId(Ulid::from_parts(1, number))
}

fn progress(durable: Option<u64>) -> Progress {
    Progress { history: Some(history(1)), durable: durable.map(Offset), ..Progress::default() }
}

#[test]
fn nothing_is_acknowledged_before_the_first_snapshot_or_of_another_history() {
    assert_eq!(acknowledgeable(&progress(None), history(1), Offset(50)), Offset(0));
    assert_eq!(acknowledgeable(&progress(Some(40)), history(2), Offset(50)), Offset(0));
    assert_eq!(acknowledgeable(&progress(Some(40)), history(1), Offset(50)), Offset(40));
}

proptest! {
    #[test]
    fn an_acknowledgement_is_neither_above_durable_nor_all_that_was_received(
        durable in proptest::option::of(any::<u64>()), received: u64,
    ) {
        let ack = acknowledgeable(&progress(durable), history(1), Offset(received));
        prop_assert!(ack.0 <= durable.unwrap_or(0));
        prop_assert!(ack.0 <= received.saturating_sub(1));
    }
}

/// The next acknowledgement, and how long it took to come.
async fn next(server: &mut (impl tokio::io::AsyncRead + Unpin)) -> (String, Duration) {
    let started = Instant::now();
    let mut buffer = [0; 200];
    let count = server.read(&mut buffer).await.unwrap();
    let text = String::from_utf8(buffer[..count].to_vec()).unwrap();
    let words = text.split("\r\n").filter(|word| !word.starts_with(['*', '$']) && !word.is_empty());
    (words.collect::<Vec<_>>().join(" "), started.elapsed())
}

fn acknowledger(
    fack: bool,
    starts_stream: Option<Offset>,
) -> (tokio::io::DuplexStream, watch::Sender<Progress>, Arc<ReceivedMark>, Acknowledger<tokio::io::DuplexStream>) {
    let (writer, server) = tokio::io::duplex(1024);
    let sender = watch::Sender::new(progress(None));
    let received = Arc::new(ReceivedMark::default());
    let acknowledger = Acknowledger {
        writer,
        history: history(1),
        progress: sender.subscribe(),
        received: Arc::clone(&received),
        fack,
        starts_stream,
    };
    (server, sender, received, acknowledger)
}

#[tokio::test(start_paused = true)]
async fn the_same_number_every_second_keeps_the_link_alive_while_the_store_is_down() {
    let (mut server, _progress, _received, acknowledger) = acknowledger(false, None);
    let _task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(acknowledger.run(CancellationToken::new())));
    assert_eq!(next(&mut server).await.0, "REPLCONF ACK 0");
    for _ in 0..100 {
        let (text, waited) = next(&mut server).await;
        assert_eq!(text, "REPLCONF ACK 0");
        assert!(waited >= Duration::from_millis(990) && waited <= Duration::from_millis(1010), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn more_is_acknowledged_at_once_and_the_connection_closed_in_the_end() {
    let (mut server, progress_sender, received, acknowledger) = acknowledger(true, None);
    let session = CancellationToken::new();
    let task = tokio::spawn(acknowledger.run(session.clone()));
    assert_eq!(next(&mut server).await.0, "REPLCONF ACK 0 FACK 0");
    received.raise(Offset(137), redwind_archive::time::Timestamp(1));
    progress_sender.send_replace(progress(Some(137)));
    let (text, waited) = next(&mut server).await;
    assert_eq!(text, "REPLCONF ACK 136 FACK 136");
    assert!(waited < Duration::from_millis(5), "{waited:?}");
    session.cancel();
    task.await.unwrap();
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_starts_by_acknowledgement_is_asked_for_until_it_comes() {
    let (mut server, _progress, received, acknowledger) = acknowledger(false, Some(Offset(70)));
    received.reset(Offset(70));
    let _task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(acknowledger.run(CancellationToken::new())));
    next(&mut server).await;
    for _ in 0..5 {
        assert!(next(&mut server).await.1 <= Duration::from_millis(110));
    }
    received.raise(Offset(71), redwind_archive::time::Timestamp(1));
    next(&mut server).await;
    assert!(next(&mut server).await.1 >= Duration::from_millis(990));
}
