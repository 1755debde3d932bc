//! What came out, for people and for programs.

use std::time::Duration;

pub struct Report {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub flood: Flood,
    /// In ascending order.
    pub latencies: Vec<Duration>,
    pub bytes_per_node: Option<u64>,
    pub bytes_per_connection: Option<u64>,
}

pub struct Flood {
    pub messages: u64,
    pub bytes: u64,
    /// From the first message sent to the last one received.
    pub time: Duration,
}

impl Report {
    pub fn print(&self) {
        let Self { sent, received, lost, flood, .. } = self;
        let messages = (flood.messages as f64 / flood.time.as_secs_f64()) as u64;
        let bytes = (flood.bytes as f64 / flood.time.as_secs_f64()) as u64;
        let (p50, p99) = (self.latency(50), self.latency(99));
        let memory = |bytes: Option<u64>| bytes.map_or("unknown".into(), grouped);
        let rows = [
            ("messages per second", grouped(messages)),
            ("bytes per second", grouped(bytes)),
            ("latency, median, µs", format!("{p50:.1}")),
            ("latency, 99th percentile, µs", format!("{p99:.1}")),
            ("bytes of memory per listening node", memory(self.bytes_per_node)),
            ("and per idle end of a connection", memory(self.bytes_per_connection)),
            ("messages sent", grouped(*sent)),
            ("messages lost", grouped(*lost)),
        ];
        println!();
        for (what, value) in rows {
            println!("{what:<36}{value:>16}");
        }
        println!();
        let bytes_per_connection = self.bytes_per_connection.unwrap_or(0);
        println!(
            "sent {sent} received {received} lost {lost} msgs_per_s {messages} p50_us {p50:.1} \
             p99_us {p99:.1} bytes_per_connection {bytes_per_connection}"
        );
    }

    /// Returns the latency that so many percent of the messages didn't exceed, in microseconds.
    fn latency(&self, percent: usize) -> f64 {
        let rank = (self.latencies.len() * percent).div_ceil(100).saturating_sub(1);
        self.latencies.get(rank).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// Writes a number with its digits in groups.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
