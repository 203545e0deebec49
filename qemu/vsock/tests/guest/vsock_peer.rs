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

fn order(words: &[&str]) -> io::Result<String> {
    let number = |i: usize| -> io::Result<usize> {
        let word = words
            .get(i)
            .ok_or_else(|| io::Error::other("a number is missing"))?;
        word.parse().map_err(io::Error::other)
    };
    let port = || number(1).map(|n| n as u32);
    let start = Instant::now();
    match words[0] {
        // dial PORT: how a connect ends and how long that takes
        "dial" => match dial(port()?) {
            Ok(_) => Ok(format!(
                "connected after {} us",
                start.elapsed().as_micros()
            )),
            Err(e) => Ok(format!(
                "errno {} after {} us",
                e.raw_os_error().unwrap_or(0),
                start.elapsed().as_micros()
            )),
        },
        // half PORT: sends "ping", ends writing, reads to the end
        "half" => {
            let mut socket = dial(port()?)?;
            socket.write_all(b"ping")?;
            end_writing(&socket)?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        }
        // fulfil PORT: reads to the end, then answers with what it read
        "fulfil" => {
            let mut socket = dial(port()?)?;
            let mut text = String::new();
            socket.read_to_string(&mut text)?;
            socket.write_all(text.as_bytes())?;
            Ok(text)
        }
        // send PORT SEED BYTES: sends and closes at once
        "send" => {
            let socket = dial(port()?)?;
            let bytes = number(3)?;
            send(&socket, number(2)? as u64, bytes)?;
            drop(socket);
            Ok(rate(bytes, start))
        }
        // receive PORT SEED: reads to the end
        "receive" => {
            let socket = dial(port()?)?;
            let bytes = receive(&socket, number(2)? as u64)?;
            Ok(format!("{bytes} {}", rate(bytes, start)))
        }
        // raw-send PORT BYTES / raw-receive PORT: no checksums, for figures
        "raw-send" => {
            let mut socket = dial(port()?)?;
            let block = vec![7; 256 * 1024];
            let bytes = number(2)?;
            for _ in 0..bytes / block.len() {
                socket.write_all(&block)?;
            }
            end_writing(&socket)?;
            socket.read_exact(&mut [0])?;
            Ok(rate(bytes, start))
        }
        "raw-receive" => {
            let mut socket = dial(port()?)?;
            let mut block = vec![0; 256 * 1024];
            let mut bytes = 0;
            loop {
                match socket.read(&mut block)? {
                    0 => return Ok(rate(bytes, start)),
                    n => bytes += n,
                }
            }
        }
        // ping PORT COUNT: round trips of one byte
        "ping" => {
            let mut socket = dial(port()?)?;
            let count = number(2)?;
            let mut byte = [1];
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let begin = Instant::now();
                socket.write_all(&byte)?;
                socket.read_exact(&mut byte)?;
                times.push(begin.elapsed());
            }
            times.sort();
            Ok(format!(
                "median {} us, p90 {} us",
                times[count / 2].as_micros(),
                times[count * 9 / 10].as_micros()
            ))
        }
        // duplex PORT STREAMS BYTES: each stream sends and receives at once
        "duplex" => {
            let (port, streams, bytes) = (port()?, number(2)?, number(3)?);
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
            Ok(format!("{total} {}", rate(2 * total, start)))
        }
        // crowd PORT COUNT: all connected at once, then a byte each way on every one
        "crowd" => {
            let (port, count) = (port()?, number(2)?);
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
            Ok(format!("{count} in {} ms", start.elapsed().as_millis()))
        }
        // reuse PORT LOCAL COUNT: connect from the same local port again and again
        "reuse" => {
            let (port, local, count) = (port()?, number(2)? as u32, number(3)?);
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
            Ok(format!("{count} in {} ms", start.elapsed().as_millis()))
        }
        // serve PORT COUNT: echoes COUNT host-initiated connections, then answers
        "serve" => {
            let listener = listen(port()?)?;
            let count = number(2)?;
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
        // stuck PORT BYTES: a thread writes into a connection whose reader sleeps for ever
        "stuck" => {
            let mut socket = dial(port()?)?;
            let bytes = number(2)?;
            thread::spawn(move || {
                drop(socket.write_all(&vec![1; bytes]));
                thread::sleep(Duration::from_secs(3600));
            });
            Ok("started".to_owned())
        }
        // tail PORT SEED BYTES: powers off right after the last write
        "tail" => {
            let socket = dial(port()?)?;
            send(&socket, number(2)? as u64, number(3)?)?;
            power_off();
            Ok(String::new())
        }
        "off" => {
            power_off();
            Ok(String::new())
        }
        other => Err(io::Error::other(format!("unknown order {other}"))),
    }
}

fn main() -> io::Result<()> {
    sys::allow_many_files()?;
    let mut control = dial(1000)?;
    let orders = BufReader::new(control.try_clone()?);
    for line in orders.lines() {
        let line = line?;
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
