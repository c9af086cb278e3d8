use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::Server;
use crate::access::Access;
use crate::connector::tests::connector;
use crate::listener::Bounded;

/// Far more requests than may be without a reply.
const FLOOD: u64 = 20_000;

#[tokio::test]
async fn a_page_that_floods_gets_a_reply_to_each_request() {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let access = Access::new(Some(address), "token".to_owned());
    let server = Server::new(access, Vec::new(), None, connector(Vec::new()));
    tokio::spawn(async move { axum::serve(Bounded::new(listener), server.service()).await });

    let mut request = format!("ws://{address}/ws").into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("origin", format!("http://{address}").parse().unwrap());
    headers.insert("sec-websocket-protocol", "millrace.v1, t.token".parse().unwrap());
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let (mut out, mut incoming) = socket.split();
    let sender = tokio::spawn(async move {
        for id in 0..FLOOD {
            let request = json!({"id": id, "m": 0, "execute": "query-status"}).to_string();
            out.send(Message::text(request)).await.unwrap();
        }
    });
    let mut replied = vec![false; FLOOD as usize];
    let mut left = FLOOD;
    while left > 0 {
        let message = incoming.next().await.unwrap().unwrap();
        let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        if let Some(id) = message["id"].as_u64() {
            assert!(message["error"]["desc"].is_string(), "{message}");
            assert!(!std::mem::replace(&mut replied[id as usize], true), "{id} has two replies");
            left -= 1;
        }
    }
    sender.await.unwrap();
}
