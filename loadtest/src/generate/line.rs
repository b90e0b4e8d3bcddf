//! An event as a JSON line, formatted by hand: the generator must outrun what it tests.
//!
//! Every value is plain ASCII that needs no escape, and keys come in one order, as one producer writes them.

use super::agents::Agents;
use super::event::{CHANNELS, COUNTRIES, Event, Ip, KINDS, SEARCH};
use super::random::mix;

const FIRST_NAMES: [&str; 32] = [
    "anna", "ben", "clara", "david", "emma", "felix", "greta", "hugo", "ida", "jonas", "kim", "lena", "max",
    "nora", "oskar", "paul", "quinn", "rosa", "sam", "tina", "uwe", "vera", "will", "xenia", "yara", "zoe",
    "liam", "mia", "noah", "olga", "piet", "ruth",
];
const DOMAINS: [&str; 8] = [
    "mail.example",
    "mail.example",
    "mail.example",
    "post.example",
    "post.example",
    "inbox.example",
    "corp.example",
    "uni.example",
];
const SECTIONS: [&str; 8] = [
    "shoes", "women", "men", "kids", "sports", "garden", "kitchen", "outlet",
];
const SOURCES: [&str; 8] = [
    "google", "direct", "google", "insta", "bing", "tiktok", "mail", "google",
];
const MEDIA: [&str; 4] = ["cpc", "mail", "social", "web"];
const CAMPAIGNS: [&str; 8] = [
    "winter_sale",
    "new_year_2026",
    "brand_de",
    "retargeting_30d",
    "app_install",
    "loyalty_gold",
    "clearance",
    "spring_preview",
];
const HEX: [[u8; 2]; 256] = hex_table();

/// Appends the event's line, without the newline.
#[inline]
pub fn write_line(out: &mut Vec<u8>, event: &Event, agents: &Agents) {
    out.extend_from_slice(br#"{"event_id":""#);
    write_uuid(out, event.id);
    out.extend_from_slice(br#"","event_time":""#);
    write_time(out, event.time_ms);
    out.extend_from_slice(br#"","user_id":"#);
    write_number(out, user_id(event.user));
    out.extend_from_slice(br#","session_id":""#);
    write_hex(out, &event.session.to_be_bytes());
    out.extend_from_slice(br#"","email":"#);
    write_email(out, event);
    out.extend_from_slice(br#","ip":""#);
    write_ip(out, event.ip);
    out.extend_from_slice(br#"","event_type":""#);
    out.extend_from_slice(KINDS[event.kind].0.as_bytes());
    out.extend_from_slice(br#"","channel":""#);
    out.extend_from_slice(CHANNELS[event.channel].0.as_bytes());
    write_product(out, event);
    out.extend_from_slice(br#","country":""#);
    out.extend_from_slice(COUNTRIES[event.country].as_bytes());
    out.extend_from_slice(br#"","url":""#);
    write_url(out, event);
    out.extend_from_slice(br#"","user_agent":""#);
    out.extend_from_slice(agents.of(event.channel, event.agent));
    out.extend_from_slice(br#""}"#);
}

/// Ranks would be telling: ids are spread over a wider range. Odd times power of two is a bijection on 24 bits.
#[inline]
fn user_id(rank: u64) -> u64 {
    100_000 + (rank.wrapping_mul(0x9e_3779) & 0xff_ffff)
}

#[inline]
fn write_email(out: &mut Vec<u8>, event: &Event) {
    if !event.known {
        out.extend_from_slice(b"null");
        return;
    }
    let bits = mix(event.user);
    out.push(b'"');
    out.extend_from_slice(FIRST_NAMES[(bits & 31) as usize].as_bytes());
    write_number(out, event.user);
    out.push(b'@');
    out.extend_from_slice(DOMAINS[(bits >> 5 & 7) as usize].as_bytes());
    out.push(b'"');
}

#[inline]
fn write_product(out: &mut Vec<u8>, event: &Event) {
    if event.kind == SEARCH {
        out.extend_from_slice(br#"","product_id":null,"price":null,"quantity":null"#);
        return;
    }
    out.extend_from_slice(br#"","product_id":""#);
    write_product_id(out, event.product);
    out.extend_from_slice(br#"","price":"#);
    write_number(out, event.cents / 100);
    out.push(b'.');
    write_padded::<2>(out, event.cents % 100);
    out.extend_from_slice(br#","quantity":"#);
    write_number(out, event.quantity);
}

#[inline]
fn write_product_id(out: &mut Vec<u8>, product: u64) {
    out.extend_from_slice(b"P-");
    write_padded::<7>(out, product);
}

#[inline]
fn write_url(out: &mut Vec<u8>, event: &Event) {
    let bits = event.campaign;
    out.extend_from_slice(b"https://shop.example/");
    out.extend_from_slice(SECTIONS[(mix(event.product) & 7) as usize].as_bytes());
    out.push(b'/');
    if event.kind == SEARCH {
        out.extend_from_slice(b"search");
    } else {
        write_product_id(out, event.product);
    }
    out.extend_from_slice(b"?utm_source=");
    out.extend_from_slice(SOURCES[(bits & 7) as usize].as_bytes());
    out.extend_from_slice(b"&utm_medium=");
    out.extend_from_slice(MEDIA[(bits >> 3 & 3) as usize].as_bytes());
    if bits >> 5 & 7 == 0 {
        out.extend_from_slice(b"&utm_campaign=");
        out.extend_from_slice(CAMPAIGNS[(bits >> 8 & 7) as usize].as_bytes());
    }
}

#[inline]
fn write_ip(out: &mut Vec<u8>, ip: Ip) {
    match ip {
        Ip::V4(bits) => {
            let [a, b, c, d] = bits.to_be_bytes();
            write_number(out, a.into());
            for byte in [b, c, d] {
                out.push(b'.');
                write_number(out, byte.into());
            }
        }
        Ip::V6(prefix) => {
            for group in prefix.to_be_bytes().chunks_exact(2) {
                write_hex(out, group);
                out.push(b':');
            }
            out.extend_from_slice(b":1");
        }
    }
}

#[inline]
fn write_uuid(out: &mut Vec<u8>, id: u128) {
    let mut text = [b'-'; 36];
    let places = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    for (byte, place) in id.to_be_bytes().into_iter().zip(places) {
        text[place..place + 2].copy_from_slice(&HEX[usize::from(byte)]);
    }
    out.extend_from_slice(&text);
}

#[inline]
fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        out.extend_from_slice(&HEX[usize::from(byte)]);
    }
}

#[inline]
fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[inline]
fn write_padded<const WIDTH: usize>(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; WIDTH];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits);
}

/// `2026-01-01T00:00:00.000Z`
#[inline]
fn write_time(out: &mut Vec<u8>, time_ms: u64) {
    let (year, month, day) = date(time_ms / 86_400_000);
    let of_day = time_ms % 86_400_000;
    let pairs = [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, of_day / 3_600_000),
        (14, of_day / 60_000 % 60),
        (17, of_day / 1000 % 60),
    ];
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (place, number) in pairs {
        text[place] = b'0' + (number / 10) as u8;
        text[place + 1] = b'0' + (number % 10) as u8;
    }
    let thousandths = of_day % 1000;
    text[20] = b'0' + (thousandths / 100) as u8;
    text[21] = b'0' + (thousandths / 10 % 10) as u8;
    text[22] = b'0' + (thousandths % 10) as u8;
    out.extend_from_slice(&text);
}

/// Year, month and day of a day since 1970: Hinnant's days-to-civil, for days from 1970 on.
#[inline]
#[must_use]
pub fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

const fn hex_table() -> [[u8; 2]; 256] {
    let digits = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    table
}
