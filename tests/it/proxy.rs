//! A way to a service that can be told to fail, in the ways that networks do.

use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nobody listens, and what was connected is cut.
    Refuse,
    /// Connections are made and stand still.
    Hang,
    /// Cut after some thousand bytes of a request.
    Cut,
    /// The service hears and does, and its answer is lost.
    Mute,
    /// 503 to everything.
    Unavailable,
}

/// Bytes of requests that a connection carries before it is cut.
const CUT_AFTER: usize = 3_000;

pub struct Proxy {
    pub address: SocketAddr,
    fault: watch::Sender<Fault>,
}

impl Proxy {
    /// To `service`, an address with a port.
    pub fn start(runtime: &tokio::runtime::Runtime, service: &str) -> Self {
        let listen = TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(listen).expect("a free port");
        let address = listener.local_addr().expect("address");
        let (fault, heard) = watch::channel(Fault::None);
        runtime.spawn(serve(listener, address, service.into(), heard));
        Self { address, fault }
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    service: Arc<str>,
    mut fault: watch::Receiver<Fault>,
) {
    let mut listener = Some(listener);
    loop {
        let refuses = *fault.borrow_and_update() == Fault::Refuse;
        match &listener {
            Some(_) if refuses => listener = None,
            None if !refuses => {
                listener = Some(TcpListener::bind(address).await.expect("the same port again"));
            }
            None => {
                if fault.changed().await.is_err() {
                    return;
                }
            }
            Some(open) => tokio::select! {
                changed = fault.changed() => if changed.is_err() { return },
                client = open.accept() => {
                    let (client, _) = client.expect("accept");
                    tokio::spawn(carry(client, service.clone(), fault.clone()));
                }
            },
        }
    }
}

/// One connection, until either end or a fault ends it.
async fn carry(
    mut client: TcpStream,
    service: Arc<str>,
    mut fault: watch::Receiver<Fault>,
) -> Option<()> {
    if *fault.borrow() == Fault::Unavailable {
        return unavailable(client).await;
    }
    let mut server = TcpStream::connect(&*service).await.ok()?;
    let (mut request, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut carried = 0;
    loop {
        let now = *fault.borrow_and_update();
        match now {
            Fault::Refuse | Fault::Unavailable => return None,
            Fault::Hang => {
                fault.changed().await.ok()?;
                continue;
            }
            Fault::None | Fault::Cut | Fault::Mute => {}
        }
        tokio::select! {
            changed = fault.changed() => changed.ok()?,
            read = client.read(&mut request) => {
                let read = read.ok().filter(|n| *n > 0)?;
                carried += read;
                if now == Fault::Cut && carried > CUT_AFTER {
                    return None;
                }
                server.write_all(&request[..read]).await.ok()?;
            }
            read = server.read(&mut answer) => {
                let read = read.ok().filter(|n| *n > 0)?;
                if now == Fault::Mute {
                    return None;
                }
                client.write_all(&answer[..read]).await.ok()?;
            }
        }
    }
}

/// Reads what comes, so that the answer is not lost with an unread request.
async fn unavailable(mut client: TcpStream) -> Option<()> {
    let mut request = vec![0; 64 << 10];
    loop {
        let read = client.read(&mut request);
        match tokio::time::timeout(Duration::from_millis(50), read).await {
            Ok(Ok(0) | Err(_)) => return None,
            Ok(Ok(_)) => {}
            Err(_) => break,
        }
    }
    let answer =
        "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    client.write_all(answer.as_bytes()).await.ok()
}
