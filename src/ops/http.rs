//! ⇄ HTTP: `/metrics`, `/livez`, `/readyz`, `/status`, `/reload` and a page for people at `/`; and asking another
//! process for its `/status`.

use super::{
    health::Health,
    metrics::{self, Process},
    reload::{Reloads, UNTIL_CAUGHT_UP},
};
use crate::error::{Error, Kind, Result};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Json},
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Of a process of this machine.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// What it serves.
#[derive(Clone)]
pub struct Site {
    health: Arc<Health>,
    metrics: PrometheusHandle,
    /// None: the process takes up no other files.
    reloads: Option<Reloads>,
}

impl Site {
    pub fn new(health: Arc<Health>, metrics: PrometheusHandle, reloads: Option<Reloads>) -> Self {
        Self { health, metrics, reloads }
    }
}

/// Listens at once, so that a taken port is an error of the start; serves until dropped.
pub async fn serve(address: SocketAddr, site: Site) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|e| Error::config(format!("listen on {address}")).because(e))?;
    let bound =
        listener.local_addr().map_err(|e| Error::halt("read the bound address").because(e))?;
    let router = Router::new()
        .route("/metrics", get(scrape))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/reload", post(reload))
        .route("/", get(page))
        .with_state(site);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!("HTTP ended: {error}");
        }
    });
    Ok(bound)
}

/// `/status` of the process that listens there; None: none does, or it is something else.
pub async fn ask(address: SocketAddr) -> Option<serde_json::Value> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WAIT).build().ok()?;
    let answer = client.get(format!("http://{address}/status")).send().await.ok()?;
    let status = serde_json::from_slice(&answer.bytes().await.ok()?).ok();
    status.filter(|status: &serde_json::Value| status["topics"].is_array())
}

async fn scrape(State(site): State<Site>) -> impl IntoResponse {
    Process::measure();
    site.health.measure();
    let text = metrics::exposition(&site.metrics);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn ready(State(site): State<Site>) -> impl IntoResponse {
    match site.health.why_not_ready() {
        None => (StatusCode::OK, format!("ready\n{}", site.health.tried_again())),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn status(State(site): State<Site>) -> impl IntoResponse {
    Json(site.health.status())
}

/// Answers when it is done, or nothing of it is; who goes away meanwhile stops nothing.
async fn reload(State(site): State<Site>) -> (StatusCode, String) {
    let Some(reloads) = site.reloads else {
        return (StatusCode::CONFLICT, format!("{UNTIL_CAUGHT_UP}\n"));
    };
    match reloads.asked().await {
        Ok(told) => (StatusCode::OK, format!("{}\n", told.join("\n"))),
        Err(error) if error.kind == Kind::Config => {
            (StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n"))
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

/// Everything on one page, without a script: it refreshes itself.
async fn page(State(site): State<Site>) -> Html<String> {
    let status = site.health.status();
    let mut rows = String::new();
    for topic in &status.topics {
        for p in &topic.partitions {
            let cell = |v: Option<i64>| v.map_or("–".to_owned(), |v| v.to_string());
            let lag = |v: Option<i64>| match (p.end, v) {
                (Some(end), Some(at)) => (end - at).max(0).to_string(),
                (_, _) => "–".to_owned(),
            };
            rows.push_str(&format!(
                "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
                escape(&topic.topic),
                p.partition,
                cell(p.end),
                p.fetched,
                cell(p.tables),
                lag(p.tables),
                cell(p.lake),
                p.watermark_us
                    .and_then(chrono::DateTime::from_timestamp_micros)
                    .map_or("–".to_owned(), |t| t.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
            ));
        }
    }
    let ready = match &status.not_ready {
        None => "<p class=ok>ready</p>".to_owned(),
        Some(why) => format!("<p class=bad>not ready: {}</p>", escape(why)),
    };
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>\
         <title>highwater</title><style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#1b2733}}\
         table{{border-collapse:collapse}}th,td{{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #dde3e9}}\
         th:first-child,td:first-child{{text-align:left}}.ok{{color:#0a6b3d}}.bad{{color:#a3201d}}</style>\
         <h1>highwater {}</h1>{ready}<p>up {} s, {} MiB resident, {:.1} CPU-seconds</p>\
         <table><tr><th>topic<th>partition<th>end<th>fetched<th>tables<th>behind<th>lake<th>watermark</tr>{rows}</table>\
         <p><a href=/status>status as JSON</a> · <a href=/metrics>metrics</a></p></html>",
        status.version,
        status.uptime_seconds,
        status.resident_bytes >> 20,
        status.cpu_seconds,
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
