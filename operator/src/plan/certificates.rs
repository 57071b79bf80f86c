//! When which of the webhook's certificates is made anew. One step at a time: what follows is decided when it was done.
//! Never signs with an authority before it had time to be trusted, never drops one that a replica may still be served under.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use crate::snapshot::certificates::{Certificates, Kept, Life, Seen, Webhook, key};

/// What the certificates should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// DNS names and addresses of the webhook.
    pub names: BTreeSet<String>,
    /// How long an authority lives.
    pub authority: Duration,
    /// How long a serving certificate lives, at most.
    pub serving: Duration,
}

impl Wanted {
    /// How far before its making a certificate's life begins: clocks differ.
    pub fn skew(&self) -> Duration {
        (self.shortest() / 10).min(Duration::from_secs(5 * 60))
    }

    /// How long old and new are both trusted, so that every API server and every replica has taken up the new.
    pub fn overlap(&self) -> Duration {
        (self.shortest() / 10).min(Duration::from_secs(10 * 60))
    }

    /// How often is looked, at least: often enough to take up what another replica made within the overlap.
    pub fn interval(&self) -> Duration {
        (self.overlap() / 4).clamp(Duration::from_millis(500), Duration::from_secs(10))
    }

    fn shortest(&self) -> Duration {
        self.authority.min(self.serving)
    }
}

/// A step towards what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make everything, in place of what is there.
    Begin,
    /// Make an authority, and trust it beside the others.
    AddAuthority,
    /// Make a serving certificate, signed by the newest authority.
    Sign,
    /// Trust the newest authority only.
    DropOld,
    /// Tell the API server whom to trust.
    Trust,
}

/// The webhooks whose configuration names other authorities than are kept.
pub fn mistrusted(seen: &Seen) -> impl Iterator<Item = &Webhook> {
    let bundle = seen.data(key::AUTHORITIES);
    seen.webhooks.iter().filter(move |webhook| webhook.bundle != bundle)
}

/// The next step, if there is one. `trusted`: every webhook configuration that is there names exactly the authorities.
pub fn plan(now: SystemTime, kept: &Kept, trusted: bool, wanted: &Wanted) -> Option<Step> {
    let certificates = match kept {
        Kept::Foreign { .. } => return None,
        Kept::Absent | Kept::Unusable { .. } => return Some(Step::Begin),
        Kept::Usable(certificates) => certificates,
    };
    let newest = certificates.authorities.last()?;
    if newest.until <= now {
        return Some(Step::Begin);
    }
    // What is kept is trusted before anything new is made: a step that was broken off is completed first.
    if !trusted {
        return Some(Step::Trust);
    }
    if ripe(newest, now) {
        return Some(Step::AddAuthority);
    }
    if sign(certificates, newest, now, wanted) {
        return Some(Step::Sign);
    }
    let by_newest = certificates.signed_by + 1 == certificates.authorities.len();
    let taken_up = settled(&certificates.serving, now, wanted);
    (certificates.authorities.len() > 1 && by_newest && taken_up).then_some(Step::DropOld)
}

fn sign(certificates: &Certificates, newest: &Life, now: SystemTime, wanted: &Wanted) -> bool {
    let serving = &certificates.serving;
    if serving.until <= now {
        return true;
    }
    let by_newest = certificates.signed_by + 1 == certificates.authorities.len();
    let stale = !by_newest || ripe(serving, now) || certificates.names != wanted.names;
    // An authority that came first is trusted by whoever trusts anything.
    let trusted = certificates.authorities.len() == 1 || settled(newest, now, wanted);
    stale && trusted
}

/// Two thirds of its life are over.
fn ripe(life: &Life, now: SystemTime) -> bool {
    life.from + life.length() * 2 / 3 <= now
}

/// It was made long enough ago for everybody to know it.
fn settled(life: &Life, now: SystemTime, wanted: &Wanted) -> bool {
    life.from + wanted.skew() + wanted.overlap() <= now
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000 * DAY + seconds)
    }

    fn life(from: u64, days: u64) -> Life {
        Life {
            from: at(from),
            until: at(from + days * DAY),
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            names: BTreeSet::from(["webhook.cudaenv.svc".to_owned()]),
            authority: Duration::from_secs(360 * DAY),
            serving: Duration::from_secs(90 * DAY),
        }
    }

    fn kept(authorities: &[Life], serving: Life, signed_by: usize) -> Certificates {
        Certificates {
            authorities: authorities.to_vec(),
            serving,
            names: wanted().names,
            signed_by,
        }
    }

    #[test]
    fn each_state_has_its_next_step() {
        let one = [life(0, 360)];
        let two = [life(0, 360), life(240 * DAY, 360)];
        let fresh = kept(&one, life(0, 90), 0);
        let usable = Kept::Usable;
        let later = 15 * 60;
        #[rustfmt::skip] // a table: one row a line
        let rows = [
            ("nothing there", 0, Kept::Absent, true, Some(Step::Begin)),
            ("broken", 0, Kept::Unusable { why: String::new() }, true, Some(Step::Begin)),
            ("somebody else's", 0, Kept::Foreign { kind: "Opaque".to_owned() }, false, None),
            ("fresh, not trusted", 0, usable(fresh.clone()), false, Some(Step::Trust)),
            ("fresh", 0, usable(fresh.clone()), true, None),
            ("serving, two thirds over", 60 * DAY, usable(fresh.clone()), true, Some(Step::Sign)),
            ("serving, just not", 60 * DAY - 1, usable(fresh.clone()), true, None),
            ("serving, over", 91 * DAY, usable(fresh.clone()), true, Some(Step::Sign)),
            ("other names", 1, usable(Certificates { names: BTreeSet::new(), ..fresh.clone() }), true, Some(Step::Sign)),
            ("authority, two thirds over", 240 * DAY, usable(kept(&one, life(230 * DAY, 90), 0)), true, Some(Step::AddAuthority)),
            ("authority, just not", 240 * DAY - 1, usable(kept(&one, life(230 * DAY, 90), 0)), true, None),
            ("authority, over", 360 * DAY, usable(kept(&one, life(300 * DAY, 90), 0)), true, Some(Step::Begin)),
            ("a second authority, not trusted", 240 * DAY + later, usable(kept(&two, life(230 * DAY, 90), 0)), false, Some(Step::Trust)),
            ("a second authority, trusted just now", 240 * DAY + later - 1, usable(kept(&two, life(230 * DAY, 90), 0)), true, None),
            ("a second authority, trusted for a while", 240 * DAY + later, usable(kept(&two, life(230 * DAY, 90), 0)), true, Some(Step::Sign)),
            ("a second authority, and serving is over", 240 * DAY + 1, usable(kept(&two, life(100 * DAY, 90), 0)), true, Some(Step::Sign)),
            ("signed by the second just now", 241 * DAY + later - 1, usable(kept(&two, life(241 * DAY, 90), 1)), true, None),
            ("signed by the second for a while", 241 * DAY + later, usable(kept(&two, life(241 * DAY, 90), 1)), true, Some(Step::DropOld)),
        ];
        for (what, now, kept, trusted, expected) in rows {
            assert_eq!(plan(at(now), &kept, trusted, &wanted()), expected, "{what}");
        }
    }

    /// Plays years of rotation, and checks at every moment that whoever is served under a certificate is trusted.
    #[test]
    fn at_every_moment_what_is_served_is_trusted() {
        let wanted = wanted();
        let made = |now: u64, length: Duration| Life {
            from: at(now) - wanted.skew(),
            until: at(now) + length,
        };
        let mut state = Kept::Absent;
        let (mut trusted, mut renewed) = (Vec::new(), BTreeSet::new());
        for now in (0..4 * 360 * DAY).step_by(60) {
            let is_trusted = matches!(&state, Kept::Usable(kept) if kept.authorities == trusted);
            let Some(step) = plan(at(now), &state, is_trusted, &wanted) else {
                continue;
            };
            renewed.insert(format!("{step:?}"));
            state = Kept::Usable(match (step, state) {
                (Step::Begin, _) => {
                    assert_eq!(now, 0, "begins once only");
                    kept(&[made(now, wanted.authority)], made(now, wanted.serving), 0)
                }
                (step, Kept::Usable(mut kept)) => {
                    match step {
                        Step::AddAuthority => kept.authorities.push(made(now, wanted.authority)),
                        Step::Sign => {
                            kept.signed_by = kept.authorities.len() - 1;
                            let signer = kept.authorities[kept.signed_by];
                            assert!(trusted.contains(&signer), "signed by one that is trusted");
                            kept.serving = made(now, wanted.serving);
                        }
                        Step::DropOld => {
                            kept.authorities.drain(..kept.signed_by);
                            kept.signed_by = 0;
                        }
                        Step::Trust => trusted.clone_from(&kept.authorities),
                        Step::Begin => {}
                    }
                    if !trusted.is_empty() {
                        assert!(trusted.contains(&kept.authorities[kept.signed_by]), "trusted");
                        assert!(
                            kept.serving.until > at(now) && kept.authorities[kept.signed_by].until > at(now),
                            "alive"
                        );
                    }
                    kept
                }
                (_, state) => panic!("{state:?}"),
            });
        }
        assert_eq!(renewed.len(), 5, "every step was needed: {renewed:?}");
    }
}
