//! Webhooks: what happens is told to the application, by POST of a `WebhookEvent` in JSON, as LiveKit's server does. `Authorization` is a
//! JWT of `webhook.api_key` whose claim `sha256` is the body's, so that only who has the secret can have sent it.
//!
//! Each address has a queue of its own, so that a slow one holds up no other, and gets its events in order. One that does not take an
//! event (no answer of 2xx within 5 s) is asked again after 1 s, 2 s, … 30 s, ten times in all. Then the event is given up, as is one for
//! which there is no room in the queue ([`WEBHOOKS_WAITING`]): `distributary_lost_webhooks_total`, and a log line.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use livekit_protocol as proto;
use reqwest::header;
use ring::digest;
use serde::Serialize;
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc;

use crate::config::{KeyRing, WebhookPlan};
use crate::limits::{WEBHOOK_ADDRESSES_MAX, WEBHOOKS_WAITING};
use crate::signal::api::Handle;
use crate::signal::auth::{sign, to_base64};

/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// Times that an event is sent at most, and the time in between.
const TRIES: u32 = 10;
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Seconds for which a JWT is valid.
const VALID_SECS: u64 = 300;
/// A queue that had nothing for so long ends.
const IDLE: Duration = Duration::from_secs(60);

/// The way to all addresses. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    plan: WebhookPlan,
    keys: KeyRing,
    runtime: Runtime,
    client: reqwest::Client,
    director: Handle,
    queues: Mutex<HashMap<Target, mpsc::Sender<Arc<Event>>>>,
}

/// An address, and the API key that its events are signed with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub url: String,
    pub key: String,
}

struct Event {
    name: String,
    body: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    nbf: u64,
    exp: u64,
    sha256: String,
}

impl Webhooks {
    /// Sends on `runtime`. `director`: counts.
    pub fn new(plan: WebhookPlan, keys: KeyRing, director: Handle, runtime: Runtime) -> reqwest::Result<Webhooks> {
        // Fails only if it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(ANSWER_TIME_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("distributary/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Webhooks(Arc::new(Inner { plan, keys, runtime, client, director, queues: Mutex::default() })))
    }

    /// Whether events signed with this key can be sent.
    pub fn has_key(&self, key: &str) -> bool {
        self.0.keys.secret(key).is_some()
    }

    /// Tells the configured addresses, and `more`, of an event, whose id and time are filled in.
    pub fn send(&self, mut event: proto::WebhookEvent, more: &[Target]) {
        let inner = &self.0;
        let own = inner.plan.urls.iter().map(|url| Target { url: url.clone(), key: inner.plan.api_key.clone() });
        let targets: Vec<Target> = own.chain(more.iter().cloned()).collect();
        if targets.is_empty() {
            return;
        }
        event.id = format!("EV_{}", super::random_id());
        event.created_at = unix_secs() as i64;
        let name = event.event.clone();
        let Ok(body) = serde_json::to_string(&event) else { return };
        let event = Arc::new(Event { name, body });
        for target in targets {
            inner.queue(target, event.clone());
        }
    }
}

impl Inner {
    fn queue(self: &Arc<Self>, target: Target, event: Arc<Event>) {
        // Held for a moment, and never while anything is waited for.
        let mut queues = self.queues.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        queues.retain(|_, queue| !queue.is_closed());
        if !queues.contains_key(&target) && queues.len() >= WEBHOOK_ADDRESSES_MAX {
            return self.lost(&target, &event, "there are too many addresses");
        }
        let queue = queues.entry(target.clone()).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(WEBHOOKS_WAITING);
            self.runtime.spawn(deliver(self.clone(), target.clone(), receiver));
            sender
        });
        if queue.try_send(event.clone()).is_err() {
            self.lost(&target, &event, "the address is too far behind");
        }
    }

    fn lost(&self, target: &Target, event: &Event, reason: &str) {
        self.director.gauges().webhooks_lost.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(url = target.url, event = event.name, reason, "webhook given up");
    }

    async fn post(&self, target: &Target, event: &Event) -> Result<(), String> {
        let secret = self.keys.secret(&target.key).ok_or("its API key is not known")?;
        let sum = digest::digest(&digest::SHA256, event.body.as_bytes());
        let now = unix_secs();
        let claims =
            Claims { iss: &target.key, nbf: now.saturating_sub(5), exp: now + VALID_SECS, sha256: to_base64(sum.as_ref()) };
        let token = sign(&claims, &secret).map_err(|error| error.to_string())?;
        let request = self.client.post(&target.url).header(header::CONTENT_TYPE, "application/webhook+json");
        let answer = request.header(header::AUTHORIZATION, token).body(event.body.clone()).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answers {}", answer.status())),
            Err(error) => Err(error.without_url().to_string()),
        }
    }
}

/// Sends the events of one address, one after the other.
async fn deliver(inner: Arc<Inner>, target: Target, mut events: mpsc::Receiver<Arc<Event>>) {
    loop {
        let Ok(Some(event)) = tokio::time::timeout(IDLE, events.recv()).await else {
            // What came in this moment is still sent; after it the address gets a new queue.
            events.close();
            if events.is_empty() { return } else { continue }
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let Err(reason) = inner.post(&target, &event).await else {
                inner.director.gauges().webhooks_sent.fetch_add(1, Ordering::Relaxed);
                break;
            };
            tracing::debug!(url = target.url, event = event.name, tries, reason, "webhook not taken");
            if tries >= TRIES {
                inner.lost(&target, &event, &reason);
                break;
            }
            tokio::time::sleep(RETRY_MIN.saturating_mul(1 << (tries - 1)).min(RETRY_MAX)).await;
        }
    }
}

fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
