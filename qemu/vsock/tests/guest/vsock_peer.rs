//! PID 1 of a test VM: does on vsock what the host's test tells it, one line per order.
//!
//! It dials (2, 1000), then reads orders there and answers each with `ok ...` or `fail ...`.
//! Compiled by the test with `rustc` alone (no crates), static, and packed into an initrd.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use pattern::Pattern;
use sys::{accept, dial, dial_from, end_writing, listen, power_off};

mod pattern;

mod sys;

const CHUNK: usize = 64 * 1024;

fn send(mut socket: &File, seed: u64, mut left: usize) -> io::Result<()> {
    let mut pattern = Pattern(seed);
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let n = left.min(CHUNK);
        pattern.fill(&mut buffer[..n]);
        socket.write_all(&buffer[..n])?;
        left -= n;
    }
    Ok(())
}

/// Reads to the end of the stream and compares; gives the number of bytes.
fn receive(mut socket: &File, seed: u64) -> io::Result<usize> {
    let mut pattern = Pattern(seed);
    let (mut got, mut want) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut total = 0;
    loop {
        let mut n = 0;
        while n < CHUNK {
            match socket.read(&mut got[n..])? {
                0 => break,
                more => n += more,
            }
        }
        pattern.fill(&mut want[..n]);
        if got[..n] != want[..n] {
            return Err(io::Error::other(format!(
                "bytes differ within {} of {total}",
                CHUNK
            )));
        }
        total += n;
        if n < CHUNK {
            return Ok(total);
        }
    }
}

fn rate(bytes: usize, since: Instant) -> String {
    format!(
        "{:.0} MB/s",
        bytes as f64 / since.elapsed().as_secs_f64() / 1e6
    )
}

/// What was ordered, by its words: a name, and numbers.
struct Order<'a> {
    words: &'a [&'a str],
    start: Instant,
}

impl Order<'_> {
    fn number(&self, i: usize) -> io::Result<usize> {
        let word = self.words.get(i);
        let word = word.ok_or_else(|| io::Error::other("a number is missing"))?;
        word.parse().map_err(io::Error::other)
    }

    fn port(&self) -> io::Result<u32> {
        Ok(self.number(1)? as u32)
    }
}

type Obey = fn(&Order<'_>) -> io::Result<String>;

const ORDERS: [(&str, Obey); 11] = [
    ("dial", how_a_dial_ends),
    ("half", half),
    ("fulfil", fulfil),
    ("send", send_all),
    ("receive", receive_all),
    ("duplex", duplex),
    ("crowd", crowd),
    ("reuse", reuse),
    ("serve", serve),
    ("stuck", stuck),
    ("tail", tail),
];

fn order(words: &[&str]) -> io::Result<String> {
    let start = Instant::now();
    let (name, obey) = ORDERS
        .iter()
        .find(|(name, _)| words.first() == Some(name))
        .ok_or_else(|| io::Error::other("an unknown order"))?;
    obey(&Order { words, start }).map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))
}

/// `dial PORT`: how a connect ends and how long that takes.
fn how_a_dial_ends(order: &Order<'_>) -> io::Result<String> {
    match dial(order.port()?) {
        Ok(_) => Ok(format!(
            "connected after {} us",
            order.start.elapsed().as_micros()
        )),
        Err(e) => Ok(format!(
            "errno {} after {} us",
            e.raw_os_error().unwrap_or(0),
            order.start.elapsed().as_micros()
        )),
    }
}

/// `half PORT`: sends "ping", ends writing, reads to the end.
fn half(order: &Order<'_>) -> io::Result<String> {
    let mut socket = dial(order.port()?)?;
    socket.write_all(b"ping")?;
    end_writing(&socket)?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

/// `fulfil PORT`: reads to the end, then answers with what it read.
fn fulfil(order: &Order<'_>) -> io::Result<String> {
    let mut socket = dial(order.port()?)?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    socket.write_all(text.as_bytes())?;
    Ok(text)
}

/// `send PORT SEED BYTES`: sends and closes at once.
fn send_all(order: &Order<'_>) -> io::Result<String> {
    let socket = dial(order.port()?)?;
    let bytes = order.number(3)?;
    send(&socket, order.number(2)? as u64, bytes)?;
    drop(socket);
    Ok(rate(bytes, order.start))
}

/// `receive PORT SEED`: reads to the end.
fn receive_all(order: &Order<'_>) -> io::Result<String> {
    let socket = dial(order.port()?)?;
    let bytes = receive(&socket, order.number(2)? as u64)?;
    Ok(format!("{bytes} {}", rate(bytes, order.start)))
}

/// `duplex PORT STREAMS BYTES`: each stream sends and receives at once.
fn duplex(order: &Order<'_>) -> io::Result<String> {
    let (port, streams, bytes) = (order.port()?, order.number(2)?, order.number(3)?);
    let streams: Vec<_> = (0..streams)
        .map(|i| {
            thread::spawn(move || -> io::Result<usize> {
                let mut socket = dial(port)?;
                socket.write_all(&[i as u8])?;
                let writer = socket.try_clone()?;
                let sending = thread::spawn(move || -> io::Result<()> {
                    send(&writer, 1000 + i as u64, bytes)?;
                    end_writing(&writer)
                });
                let got = receive(&socket, 2000 + i as u64)?;
                sending.join().map_err(|_| io::Error::other("panic"))??;
                Ok(got)
            })
        })
        .collect();
    let mut total = 0;
    for stream in streams {
        total += stream.join().map_err(|_| io::Error::other("panic"))??;
    }
    Ok(format!("{total} {}", rate(2 * total, order.start)))
}

/// `crowd PORT COUNT`: all connected at once, then a byte each way on every one.
fn crowd(order: &Order<'_>) -> io::Result<String> {
    let (port, count) = (order.port()?, order.number(2)?);
    let mut sockets = Vec::new();
    for i in 0..count {
        let mut socket = dial(port)?;
        socket.write_all(&(i as u32).to_le_bytes())?;
        sockets.push(socket);
    }
    for (i, socket) in sockets.iter_mut().enumerate() {
        let mut echo = [0; 4];
        socket.read_exact(&mut echo)?;
        if u32::from_le_bytes(echo) != i as u32 {
            return Err(io::Error::other(format!("stream {i} got {echo:?}")));
        }
    }
    Ok(format!(
        "{count} in {} ms",
        order.start.elapsed().as_millis()
    ))
}

/// `reuse PORT LOCAL COUNT`: connect from the same local port again and again.
fn reuse(order: &Order<'_>) -> io::Result<String> {
    let (port, local, count) = (order.port()?, order.number(2)? as u32, order.number(3)?);
    for i in 0..count {
        let mut socket = dial_from(Some(local), port)?;
        socket.write_all(&(i as u32).to_le_bytes())?;
        end_writing(&socket)?;
        let mut echo = Vec::new();
        socket.read_to_end(&mut echo)?;
        if echo != (i as u32).to_le_bytes() {
            return Err(io::Error::other(format!("round {i} got {echo:?}")));
        }
    }
    Ok(format!(
        "{count} in {} ms",
        order.start.elapsed().as_millis()
    ))
}

/// `serve PORT COUNT`: echoes COUNT host-initiated connections, then answers.
fn serve(order: &Order<'_>) -> io::Result<String> {
    let listener = listen(order.port()?)?;
    let count = order.number(2)?;
    thread::spawn(move || {
        for _ in 0..count {
            let Ok(mut socket) = accept(&listener) else {
                return;
            };
            thread::spawn(move || {
                let Ok(mut writer) = socket.try_clone() else {
                    return;
                };
                if io::copy(&mut socket, &mut writer).is_ok() {
                    drop(end_writing(&writer));
                }
            });
        }
    });
    Ok("listening".to_owned())
}

/// `stuck PORT BYTES`: a thread writes into a connection whose reader sleeps for ever.
fn stuck(order: &Order<'_>) -> io::Result<String> {
    let mut socket = dial(order.port()?)?;
    let bytes = order.number(2)?;
    thread::spawn(move || {
        drop(socket.write_all(&vec![1; bytes]));
        thread::sleep(Duration::from_secs(3600));
    });
    Ok("started".to_owned())
}

/// `tail PORT SEED BYTES`: powers off right after the last write.
fn tail(order: &Order<'_>) -> io::Result<String> {
    let socket = dial(order.port()?)?;
    send(&socket, order.number(2)? as u64, order.number(3)?)?;
    power_off();
    Ok(String::new())
}

fn main() -> io::Result<()> {
    sys::allow_many_files()?;
    let mut control = dial(1000)?;
    let orders = BufReader::new(control.try_clone()?);
    for line in orders.lines() {
        let line = line?;
        if line == "off" {
            break;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match order(&words) {
            Ok(text) => format!("ok {text}\n"),
            Err(e) => format!("fail {line}: {e}\n"),
        };
        control.write_all(answer.as_bytes())?;
    }
    power_off();
    Ok(())
}
