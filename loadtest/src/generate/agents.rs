//! Some two hundred user agents of 80 to 130 bytes, by channel, as browsers and apps send them.

use super::event::CHANNELS;
use super::random::mix;

/// The agents of each channel, the frequent ones first.
#[derive(Debug)]
pub struct Agents(Vec<Vec<Box<[u8]>>>);

impl Default for Agents {
    fn default() -> Self {
        Self(
            CHANNELS
                .iter()
                .map(|(channel, _)| match *channel {
                    "ios" => ios(),
                    "android" => android(),
                    _ => browsers(),
                })
                .collect(),
        )
    }
}

impl Agents {
    /// One of the channel's agents; `choice` is a user's, so that the user keeps the agent.
    #[inline]
    #[must_use]
    pub fn of(&self, channel: usize, choice: u64) -> &[u8] {
        let agents = &self.0[channel];
        // The square of a uniform share: the first tenth of the agents has a third of the users.
        let share = mix(choice) >> 32;
        &agents[((((share * share) >> 32) * agents.len() as u64) >> 32) as usize]
    }

    /// Every agent.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().flatten().map(AsRef::as_ref)
    }
}

fn browsers() -> Vec<Box<[u8]>> {
    let systems = [
        "Windows NT 10.0; Win64; x64",
        "Macintosh; Intel Mac OS X 10_15_7",
        "X11; Linux x86_64",
    ];
    let mut agents = Vec::new();
    for version in (120..=140).rev() {
        for system in systems {
            agents.push(format!(
                "Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 Safari/537.36"
            ));
        }
        agents.push(format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0 (Shop)"
        ));
    }
    boxed(agents)
}

fn ios() -> Vec<Box<[u8]>> {
    let models = [
        "iPhone15,3",
        "iPhone14,5",
        "iPhone16,1",
        "iPhone12,8",
        "iPad13,18",
    ];
    let mut agents = Vec::new();
    for minor in (0..12).rev() {
        for model in models {
            let system = format!("{}.{}", 17 + minor % 2, minor % 6);
            agents.push(format!(
                "ShopApp/5.{minor}.1 ({model}; iOS {system}; Scale/3.00) CFNetwork/1496.0.7 Darwin/23.5.0"
            ));
        }
    }
    boxed(agents)
}

fn android() -> Vec<Box<[u8]>> {
    let models = [
        "Pixel 8",
        "SM-S921B",
        "SM-A546B",
        "2201117TY",
        "CPH2449",
        "Pixel 7a",
    ];
    let mut agents = Vec::new();
    for minor in (0..12).rev() {
        for model in models {
            agents.push(format!(
                "ShopApp/5.{minor}.0 (Linux; Android {}; {model} Build/UQ1A.240205.004) okhttp/4.12.0",
                12 + minor % 4
            ));
        }
    }
    boxed(agents)
}

fn boxed(agents: Vec<String>) -> Vec<Box<[u8]>> {
    agents
        .into_iter()
        .map(|agent| agent.into_bytes().into_boxed_slice())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_many_and_of_the_promised_length() {
        let agents = Agents::default();
        let distinct: std::collections::BTreeSet<_> = agents.all().collect();
        assert!((180..260).contains(&distinct.len()), "{}", distinct.len());
        for agent in distinct {
            assert!(
                (78..=130).contains(&agent.len()),
                "{}: {}",
                agent.len(),
                String::from_utf8_lossy(agent)
            );
        }
    }
}
