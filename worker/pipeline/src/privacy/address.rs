//! Addresses cut down: an IP address to its network, an email address's domain to lower case.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Appends the network of an IP address: /24 of IPv4 (also when mapped into IPv6), /48 of IPv6.
/// Says whether `value` was an address; if not, nothing is appended.
#[inline]
pub(super) fn push_network(value: &[u8], out: &mut Vec<u8>) -> bool {
    match network_v4_length(value) {
        Some(length) => {
            out.extend_from_slice(&value[..length]);
            out.push(b'0');
            true
        }
        None => push_network_v6(value, out),
    }
}

/// Bytes of `a.b.c.` when `value` is an IPv4 address as the standard library reads it: four numbers of
/// 0..=255 without leading zeros. Works on bytes: this runs for every event.
#[inline]
fn network_v4_length(value: &[u8]) -> Option<usize> {
    if !(7..=15).contains(&value.len()) {
        return None;
    }
    let (mut dots, mut digits, mut number, mut network) = (0, 0, 0_u32, 0);
    for (at, &byte) in value.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            // A second digit after a leading zero is refused: some readers take it as octal.
            if digits > 0 && number == 0 {
                return None;
            }
            number = number * 10 + u32::from(digit);
            digits += 1;
        } else {
            if byte != b'.' || digits == 0 || number > 255 {
                return None;
            }
            (digits, number, network) = (0, 0, at + 1);
            dots += 1;
        }
        if digits > 3 {
            return None;
        }
    }
    (dots == 3 && digits > 0 && number <= 255).then_some(network)
}

fn push_network_v6(value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr::memchr(b':', value).is_none() {
        return false;
    }
    let Some(address) = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<Ipv6Addr>().ok())
    else {
        return false;
    };
    // Writing to memory does not fail.
    let _ = match address.to_ipv4_mapped() {
        Some(inner) => {
            let [a, b, c, _] = inner.octets();
            write!(out, "{}", Ipv4Addr::new(a, b, c, 0))
        }
        None => {
            let [a, b, c, ..] = address.segments();
            write!(out, "{}", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    };
    true
}

/// What each byte of a domain becomes; 0: no domain has it.
const DOMAIN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let at = byte as u8;
        if at.is_ascii_alphanumeric() || at == b'-' || at == b'.' {
            table[byte] = at.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

/// Splits an email address: appends `@` and the lower-cased domain to `out` and returns the part before.
///
/// None, and nothing appended, when it is no address with a domain that may be shown: two labels or
/// more of letters, digits and `-`, the last one starting with a letter. `@ada`, `ada@+4912345` and
/// `write to ada@example.com or ring 12345` would otherwise show what they must not.
#[inline]
pub(super) fn push_domain<'a>(value: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let at = memchr::memrchr(b'@', value).filter(|&at| at > 0)?;
    let domain = &value[at + 1..];
    if domain.len() > 253 {
        return None;
    }
    let start = out.len();
    out.push(b'@');
    let (mut previous, mut top) = (b'.', 0);
    for (i, &byte) in domain.iter().enumerate() {
        let byte = DOMAIN[usize::from(byte)];
        if byte == 0 || (byte == b'.' && previous == b'.') {
            out.truncate(start);
            return None;
        }
        if byte == b'.' {
            top = i + 1;
        }
        out.push(byte);
        previous = byte;
    }
    if top == 0 || !domain.get(top).is_some_and(u8::is_ascii_alphabetic) {
        out.truncate(start);
        return None;
    }
    Some(&value[..at])
}
