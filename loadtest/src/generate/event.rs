//! What one shop event says, before it is text.
//!
//! An event is a function of the plan and its line number. Users, products and their attributes are
//! functions of their rank, so the same user keeps the same email address, country and agent.

use super::plan::Plan;
use super::random::{Random, mix};

const EVENT: u64 = 1;
const USER: u64 = 2;
const PRODUCT: u64 = 3;

const HOUR_MS: u64 = 3_600_000;
/// Length of a session: a user's events within it share a session id.
const SESSION_MS: u64 = HOUR_MS / 2;
/// Users and products that the `hot_keys` share of events belongs to.
const HOT: u64 = 10;

/// Where events come from, and how many of 100 events come from there.
pub const CHANNELS: [(&str, u64); 4] = [("web", 34), ("ios", 31), ("android", 28), ("email", 7)];

/// Kinds of events, and how many of 1000 are of it.
pub const KINDS: [(&str, u64); 8] = [
    ("view", 540),
    ("click", 230),
    ("search", 90),
    ("add_to_cart", 70),
    ("remove_from_cart", 20),
    ("wishlist", 18),
    ("purchase", 28),
    ("refund", 4),
];
/// Index of the one kind without a product.
pub const SEARCH: usize = 2;

/// Countries, the frequent ones first.
pub const COUNTRIES: [&str; 32] = [
    "DE", "US", "GB", "FR", "NL", "AT", "CH", "PL", "IT", "ES", "BE", "SE", "DK", "NO", "FI", "CZ", "PT",
    "IE", "HU", "RO", "GR", "SK", "SI", "HR", "BG", "LT", "LV", "EE", "LU", "CA", "AU", "JP",
];

/// One event's values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// A version 4 UUID.
    pub id: u128,
    /// Milliseconds since 1970 UTC.
    pub time_ms: u64,
    /// Rank of the user; 0 is the most active one.
    pub user: u64,
    /// Whether the user is logged in, so that the address is known.
    pub known: bool,
    /// Session.
    pub session: u128,
    /// Address: IPv4, or for few users the first 64 bits of an IPv6 one.
    pub ip: Ip,
    /// Index into [`KINDS`].
    pub kind: usize,
    /// Index into [`CHANNELS`].
    pub channel: usize,
    /// Rank of the product.
    pub product: u64,
    /// Price in cents.
    pub cents: u64,
    /// Pieces.
    pub quantity: u64,
    /// Index into [`COUNTRIES`].
    pub country: usize,
    /// Which campaign led here: chooses the URL's parameters.
    pub campaign: u64,
    /// Which of the channel's user agents.
    pub agent: u64,
    /// Hours behind its neighbours.
    pub is_late: bool,
    /// Some seconds behind its neighbours.
    pub is_out_of_order: bool,
}

/// An address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ip {
    /// Four bytes.
    V4(u32),
    /// Prefix of a /64.
    V6(u64),
}

impl Event {
    /// The event that line `line` of the plan stands for.
    #[inline]
    #[must_use]
    pub fn of(plan: &Plan, line: u64) -> Self {
        let mut random = Random::new(plan.seed, EVENT, line);
        let id = uuid(&mut random);
        let (time_ms, is_late, is_out_of_order) = time(plan, line, &mut random);
        let is_hot = random.chance(plan.hot_keys);
        let (user, product) = if is_hot {
            (random.below(HOT), random.below(HOT))
        } else {
            (random.skewed(plan.users, 7), random.skewed(plan.products, 5))
        };
        let mut person = Random::new(plan.seed, USER, user);
        let traits = person.bits();
        let kind = weighted(&KINDS, random.below(1000));
        let choice = random.bits();
        Self {
            id,
            time_ms,
            user,
            known: traits & 7 > 2,
            session: session(plan.seed, user, time_ms),
            ip: ip(&mut person),
            kind,
            channel: weighted(
                &CHANNELS,
                if choice & 7 == 0 {
                    random.below(100)
                } else {
                    person.below(100)
                },
            ),
            product,
            cents: price(plan.seed, product),
            quantity: quantity(choice >> 8),
            country: person.skewed(COUNTRIES.len() as u64, 1) as usize,
            campaign: choice >> 16,
            agent: person.bits(),
            is_late,
            is_out_of_order,
        }
    }
}

#[inline]
fn uuid(random: &mut Random) -> u128 {
    let bits = (u128::from(random.bits()) << 64) | u128::from(random.bits());
    (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62)
}

/// Times grow with the line number; few are behind their neighbours by seconds, fewer by hours. None is
/// before the start.
#[inline]
fn time(plan: &Plan, line: u64, random: &mut Random) -> (u64, bool, bool) {
    let since =
        line * plan.span_ms / plan.events.max(1) + random.below(plan.span_ms / plan.events.max(1) + 1);
    let choice = random.bits();
    let (lag, is_late) = if choice < plan.late && since > HOUR_MS {
        (HOUR_MS + random.below((since - HOUR_MS).min(5 * HOUR_MS)), true)
    } else if choice > !plan.out_of_order && since > 60_000 {
        (1_000 + random.below(59_000), false)
    } else {
        (0, false)
    };
    (plan.start_ms + since - lag, is_late, !is_late && lag > 0)
}

#[inline]
fn session(seed: u64, user: u64, time_ms: u64) -> u128 {
    let low = mix(seed ^ user.rotate_left(32) ^ (time_ms / SESSION_MS));
    (u128::from(mix(low ^ user)) << 64) | u128::from(low)
}

#[inline]
fn ip(person: &mut Random) -> Ip {
    let bits = person.bits();
    if bits & 63 == 0 {
        return Ip::V6(0x2a02_0000_0000_0000 | bits >> 8);
    }
    // First byte 11..=99: public addresses, whatever the rest.
    let first = 11 + (bits >> 8) % 89;
    Ip::V4((first as u32) << 24 | (bits >> 32) as u32 & 0x00ff_ffff)
}

/// 0.99 to 1600.00, cheap ones frequent, many ending in 9.
#[inline]
fn price(seed: u64, product: u64) -> u64 {
    let bits = mix(seed ^ PRODUCT.rotate_left(48) ^ product);
    let octave = 7 + bits % 11;
    let cents = (1 << octave) + (bits >> 16) % (1 << octave);
    if bits & 0x100 == 0 {
        cents
    } else {
        cents / 10 * 10 + 9
    }
    .clamp(99, 160_000)
}

#[inline]
fn quantity(bits: u64) -> u64 {
    match bits & 31 {
        0..=21 => 1,
        22..=27 => 2,
        28..=29 => 3,
        30 => 4,
        _ => 5 + (bits >> 5) % 6,
    }
}

#[inline]
fn weighted(choices: &[(&str, u64)], mut point: u64) -> usize {
    for (index, (_, weight)) in choices.iter().enumerate() {
        match point.checked_sub(*weight) {
            Some(rest) => point = rest,
            None => return index,
        }
    }
    0
}
