//! What the machine itself can do, without us.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

const ROUNDS: usize = 2_000;
const LONGEST: Duration = Duration::from_secs(3);

/// All in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Probes {
    pub sync_p50: f64,
    pub sync_p99: f64,
    pub loopback_p50: f64,
    pub loopback_p99: f64,
}

impl Probes {
    pub fn lines(&self) -> [(&'static str, f64); 4] {
        [
            ("append 4 KiB and sync p50", self.sync_p50),
            ("append 4 KiB and sync p99", self.sync_p99),
            ("loopback round trip p50", self.loopback_p50),
            ("loopback round trip p99", self.loopback_p99),
        ]
    }
}

pub fn probe() -> anyhow::Result<Probes> {
    let sync = sync().context("probing the disk")?;
    let loopback = loopback().context("probing the loopback interface")?;
    let at = |nanos: &Histogram<u64>, quantile| nanos.value_at_quantile(quantile) as f64 / 1e6;
    Ok(Probes {
        sync_p50: at(&sync, 0.5),
        sync_p99: at(&sync, 0.99),
        loopback_p50: at(&loopback, 0.5),
        loopback_p99: at(&loopback, 0.99),
    })
}

fn sync() -> anyhow::Result<Histogram<u64>> {
    let mut file = tempfile::tempfile()?;
    let block = [7_u8; 4096];
    timed(|| {
        file.write_all(&block)?;
        file.sync_data()
    })
}

fn loopback() -> anyhow::Result<Histogram<u64>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; 64];
        while stream.read_exact(&mut buffer).is_ok() {
            stream.write_all(&buffer)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut buffer = [1; 64];
    let times = timed(|| {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)
    })?;
    drop(stream);
    echo.join().map_err(|_| anyhow::anyhow!("the echo thread panicked"))??;
    Ok(times)
}

fn timed(mut step: impl FnMut() -> std::io::Result<()>) -> anyhow::Result<Histogram<u64>> {
    let mut nanos = Histogram::new(3)?;
    let end = Instant::now() + LONGEST;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        step()?;
        nanos.record(begin.elapsed().as_nanos() as u64)?;
        if begin > end {
            break;
        }
    }
    Ok(nanos)
}
