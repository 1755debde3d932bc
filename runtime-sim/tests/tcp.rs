//! TCP between hosts, as programs see it.

mod common;

use anypea_runtime::{Clock, ConnectOptions, Keepalive, ListenOptions, Network, SocketOptions};
use anypea_sim::{Crash, Link, Options, kbit, mbit, ms, secs};
use common::{PORT, accept, addr, dial, listen, listen_with, pair, simulate, simulate_with};
use futures_util::{
    AsyncReadExt, AsyncWriteExt,
    future::{join, join_all, poll_immediate},
};
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

#[test]
fn a_connection_takes_a_round_trip() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let _listener = listen(&b).await;
        let dialed = dial(&a, &b).await.expect("connect");
        assert_eq!(sim.elapsed(), ms(20));
        assert_eq!(dialed.socket().peer_addr().expect("an address"), addr(&b));
        assert_eq!(dialed.socket().local_addr().expect("an address").ip(), a.ip());
    });
}

#[test]
fn a_host_that_does_not_listen_refuses() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        assert_eq!(dial(&a, &b).await.expect_err("refused").kind(), ErrorKind::ConnectionRefused);
        assert_eq!(sim.elapsed(), ms(20));
    });
}

#[test]
fn an_address_that_no_host_has_times_out() {
    simulate(|sim| async move {
        let nobody = SocketAddr::from(([192, 0, 2, 1], PORT));
        let dialed = sim.host().connect(nobody, &ConnectOptions::default()).await;
        assert_eq!(dialed.expect_err("nobody").kind(), ErrorKind::TimedOut);
        assert_eq!(sim.elapsed().as_secs(), 127);
    });
}

#[test]
fn a_dial_is_repeated_until_it_gets_through() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let _listener = listen(&b).await;
        let fault = sim.partition(a.index(), b.index());
        let healing = async {
            sim.sleep(ms(2_500)).await;
            fault.lift();
        };
        let (dialed, ()) = join(dial(&a, &b), healing).await;
        dialed.expect("connect");
        // Tried at 0, 1 and 3 seconds.
        assert_eq!(sim.elapsed(), ms(3_020));
    });
}

#[test]
fn a_full_backlog_lets_dials_wait() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let mut options = ListenOptions::default();
        options.backlog = 1;
        let mut listener = listen_with(&b, &options).await;
        let _waiting = [dial(&a, &b).await.expect("connect"), dial(&a, &b).await.expect("connect")];
        let mut third = Box::pin(dial(&a, &b));
        assert!(poll_immediate(&mut third).await.is_none());
        sim.sleep(ms(500)).await;
        assert!(poll_immediate(&mut third).await.is_none(), "the backlog takes too many");
        accept(&mut listener).await;
        third.await.expect("connect");
    });
}

#[test]
fn bytes_stay_in_order_whatever_their_latency() {
    let options = Options::seed(3).link(Link::latency(ms(1)..ms(500)).loss(0.05)).short_io(0.3);
    simulate_with(options, |sim| async move {
        let (mut a, mut b) = pair(&sim.host(), &sim.host()).await;
        let sent: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let mut heard = Vec::new();
        let writing = async {
            for chunk in sent.chunks(777) {
                a.write_all(chunk).await.expect("write");
                sim.sleep(ms(3)).await;
            }
            a.close().await.expect("close");
        };
        join(writing, async { b.read_to_end(&mut heard).await.expect("read") }).await;
        assert_eq!(heard, sent);
    });
}

#[test]
fn bandwidth_is_shared_by_a_hosts_connections() {
    let options = Options::seed(1).link(Link::latency(ms(1)).bandwidth(mbit(8)));
    simulate_with(options, |sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let mut listener = listen(&b).await;
        let transfers = (0..4).map(|_| dial(&a, &b));
        let dialed = join_all(transfers).await;
        let mut ends = Vec::new();
        for stream in dialed {
            ends.push((stream.expect("connect"), accept(&mut listener).await));
        }
        let start = sim.elapsed();
        join_all(ends.iter_mut().map(|(a, b)| async {
            let sending = async {
                a.write_all(&vec![7; 1_000_000]).await.expect("write");
                a.close().await.expect("close");
            };
            let mut heard = Vec::new();
            join(sending, b.read_to_end(&mut heard)).await.1.expect("read");
        }))
        .await;
        // Four megabytes at one megabyte a second.
        let took = (sim.elapsed() - start).as_secs_f64();
        assert!((4.0..4.2).contains(&took), "{took}");
    });
}

#[test]
fn a_reader_that_stops_stops_the_writer() {
    simulate(|sim| async move {
        let (mut a, mut b) = pair(&sim.host(), &sim.host()).await;
        let mut queued = 0;
        let chunk = [7; 10_000];
        loop {
            match poll_immediate(a.write(&chunk)).await {
                Some(written) => queued += written.expect("write"),
                None => {
                    sim.sleep(secs(1)).await;
                    match poll_immediate(a.write(&chunk)).await {
                        Some(written) => queued += written.expect("write"),
                        None => break,
                    }
                }
            }
        }
        // What both sides hold by default.
        assert_eq!(queued, 512 * 1024);
        let mut heard = vec![0; queued + 1];
        join(b.read_exact(&mut heard), a.write_all(&[7])).await.0.expect("read");
    });
}

#[test]
fn closing_with_unread_data_resets() {
    simulate(|sim| async move {
        let (mut a, b) = pair(&sim.host(), &sim.host()).await;
        a.write_all(b"unread").await.expect("write");
        sim.sleep(secs(1)).await;
        drop(b);
        let error = a.read(&mut [0]).await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn data_for_a_closed_socket_is_answered_with_a_reset() {
    simulate(|sim| async move {
        let (mut a, b) = pair(&sim.host(), &sim.host()).await;
        drop(b);
        assert_eq!(a.read(&mut [0]).await.expect("a FIN"), 0);
        a.write_all(b"too late").await.expect("the first write finds out");
        sim.sleep(secs(1)).await;
        let error = a.write_all(b"too late").await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn what_came_before_a_reset_can_be_read() {
    simulate(|sim| async move {
        let (mut a, mut b) = pair(&sim.host(), &sim.host()).await;
        b.write_all(b"last words").await.expect("write");
        a.write_all(b"unread").await.expect("write");
        sim.sleep(secs(1)).await;
        drop(b);
        sim.sleep(secs(1)).await;
        let mut heard = [0; 10];
        a.read_exact(&mut heard).await.expect("it arrived before");
        assert_eq!(&heard, b"last words");
        a.read(&mut heard).await.expect_err("a reset");
    });
}

#[test]
fn a_crashed_process_resets_its_connections() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let (mut stream, _other) = pair(&a, &b).await;
        sim.crash(b.index(), Crash::Process);
        let error = stream.read(&mut [0]).await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(sim.elapsed().as_millis(), 40, "at once");
        assert_eq!(dial(&a, &b).await.expect_err("down").kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_host_without_power_is_silent() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let (mut stream, _other) = pair(&a, &b).await;
        sim.crash(b.index(), Crash::PowerLoss);
        assert!(poll_immediate(stream.read(&mut [0])).await.is_none());
        sim.sleep(secs(3600)).await;
        assert!(poll_immediate(stream.read(&mut [0])).await.is_none(), "nobody says anything");
        let start = sim.elapsed();
        stream.write_all(b"is anybody there?").await.expect("write");
        let error = stream.read(&mut [0]).await.expect_err("it is given up");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // As on Linux: 15 retransmissions, 924.6 seconds.
        assert_eq!((sim.elapsed() - start).as_secs(), 924);
    });
}

#[test]
fn a_restarted_host_knows_nothing_of_old_connections() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let (mut stream, _other) = pair(&a, &b).await;
        sim.crash(b.index(), Crash::PowerLoss);
        sim.restart(b.index());
        stream.write_all(b"still there?").await.expect("write");
        let error = stream.read(&mut [0]).await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn keepalive_and_the_user_timeout_find_dead_peers() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let _listener = listen(&b).await;
        let mut options = ConnectOptions::default();
        options.socket.keepalive =
            Some(Keepalive { time: secs(10), interval: secs(2), retries: 3 });
        let mut idle = a.connect(addr(&b), &options).await.expect("connect");
        let mut options = ConnectOptions::default();
        options.socket.user_timeout = Some(secs(5));
        let mut busy = a.connect(addr(&b), &options).await.expect("connect");
        sim.sleep(secs(100)).await;
        assert!(poll_immediate(idle.read(&mut [0])).await.is_none(), "all is well");
        sim.crash(b.index(), Crash::PowerLoss);
        let start = sim.elapsed();
        busy.write_all(b"!").await.expect("write");
        let error = busy.read(&mut [0]).await.expect_err("given up");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!((sim.elapsed() - start).as_secs(), 5);
        let error = idle.read(&mut [0]).await.expect_err("given up");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!((sim.elapsed() - start) <= secs(18), "{:?}", sim.elapsed() - start);
    });
}

#[test]
fn what_is_lost_in_a_partition_arrives_after_it() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let (mut one, mut two) = pair(&a, &b).await;
        let fault = sim.partition(a.index(), b.index());
        one.write_all(b"patience").await.expect("write");
        let mut heard = [0; 8];
        let healing = async {
            sim.sleep(secs(10)).await;
            fault.lift();
        };
        join(two.read_exact(&mut heard), healing).await.0.expect("read");
        assert_eq!(&heard, b"patience");
        assert!(sim.elapsed() < secs(14), "{:?}", sim.elapsed());
    });
}

#[test]
fn ephemeral_ports_can_be_exhausted() {
    simulate_with(Options::seed(1).link(Link::latency(ms(1))), |sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let mut options = ListenOptions::default();
        options.backlog = 100_000;
        let _listener = listen_with(&b, &options).await;
        let mut streams = Vec::new();
        for _ in 0..28_232 {
            streams.push(dial(&a, &b).await.expect("connect"));
        }
        let error = dial(&a, &b).await.expect_err("no port is left");
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        // Another peer is another tuple.
        let c = sim.host();
        let _other = listen(&c).await;
        dial(&a, &c).await.expect("connect");
        // The side that closes first waits in TIME_WAIT; the port is in use for a minute.
        let mut last = streams.pop().expect("a stream");
        last.close().await.expect("close");
        drop(last);
        sim.sleep(secs(30)).await;
        assert!(dial(&a, &b).await.is_err());
    });
}

#[test]
fn both_can_dial_each_other_at_once() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let bound = |local: SocketAddr| {
            let mut options = ConnectOptions::default();
            options.local = Some(local);
            options.reuse_port = true;
            options
        };
        let (from_a, from_b) = (bound(addr(&a)), bound(addr(&b)));
        let dials = join(a.connect(addr(&b), &from_a), b.connect(addr(&a), &from_b)).await;
        let (mut one, mut two) = (dials.0.expect("connect"), dials.1.expect("connect"));
        one.write_all(b"hello").await.expect("write");
        let mut heard = [0; 5];
        two.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"hello");
    });
}

#[test]
fn addresses_of_others_cannot_be_bound() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let error = a.listen(addr(&b), &ListenOptions::default()).await.err().expect("not its own");
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
        let _first = listen(&a).await;
        let wildcard = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let error = a.listen(wildcard, &ListenOptions::default()).await.err().expect("in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    });
}

#[test]
fn a_listener_for_both_families_shows_mapped_addresses() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let wildcard = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let mut listener = b.listen(wildcard, &ListenOptions::default()).await.expect("listen");
        for ip in b.ips() {
            let dialed = a.connect((*ip, PORT).into(), &ConnectOptions::default()).await;
            let _dialed = dialed.expect("connect");
            let peer = accept(&mut listener).await.socket().peer_addr().expect("an address");
            assert!(peer.is_ipv6());
            assert_eq!(peer.ip().to_canonical().is_ipv4(), ip.is_ipv4());
        }
    });
}

#[test]
fn each_host_has_a_loopback_of_its_own() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let localhost = SocketAddr::from((IpAddr::from([127, 0, 0, 1]), PORT));
        let _listener = a.listen(localhost, &ListenOptions::default()).await.expect("listen");
        a.connect(localhost, &ConnectOptions::default()).await.expect("connect");
        let error = b.connect(localhost, &ConnectOptions::default()).await.expect_err("not here");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(sim.elapsed() < ms(1), "{:?}", sim.elapsed());
    });
}

#[test]
fn a_connection_can_be_clogged_and_slowed() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let (mut one, mut two) = pair(&a, &b).await;
        let mut took = async |bytes: usize| {
            let start = sim.elapsed();
            let mut heard = vec![0; bytes];
            let sent = vec![7; bytes];
            join(one.write_all(&sent), two.read_exact(&mut heard)).await.1.expect("read");
            sim.elapsed() - start
        };
        let plain = took(1_000).await;
        let slow = sim.slow(a.index(), b.index(), secs(1));
        assert_eq!(took(1_000).await, plain + secs(1));
        slow.lift();
        let clog = sim.clog(a.index(), b.index(), kbit(8));
        assert!(took(1_000).await > secs(1));
        clog.lift();
        assert_eq!(took(1_000).await, plain);
    });
}

#[test]
fn buffers_are_as_big_as_asked_for() {
    simulate(|sim| async move {
        let (a, b) = (sim.host(), sim.host());
        let mut small = SocketOptions::default();
        small.send_buffer_bytes = Some(4_096);
        small.recv_buffer_bytes = Some(8_192);
        let mut options = ListenOptions::default();
        options.socket = small.clone();
        let _listener = listen_with(&b, &options).await;
        let mut options = ConnectOptions::default();
        options.socket = small;
        let mut stream = a.connect(addr(&b), &options).await.expect("connect");
        let mut queued = 0;
        let start = b.now();
        while b.now() - start < Duration::from_secs(1) {
            match poll_immediate(stream.write(&[7; 1_000])).await {
                Some(written) => queued += written.expect("write"),
                None => sim.sleep(ms(50)).await,
            }
        }
        assert_eq!(queued, 4_096 + 8_192);
    });
}
