//! Which environment of a file is meant.
//! Never guesses: where a name is missing, unknown or shared, the error lists what there is.

use crate::domain::environment::Environment;

/// The most characters of a name that an error repeats.
const LONGEST_NAME: usize = 256;

/// Why no environment can be chosen. Names are as [`Environment::full_name`] gives them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// Objects, but no environment.
    #[error("it has no CUDAEnvironment or ClusterCUDAEnvironment in it")]
    NoEnvironment,
    /// The named environment is not there.
    #[error("it has no environment `{wanted}`; it has {}", .present.join(", "))]
    NotThere {
        /// What was asked for, escaped and cut.
        wanted: String,
        /// What it has.
        present: Vec<String>,
    },
    /// Several fit: none was named, or several have the name.
    #[error("it has several environments; choose one with --name: {}", .fitting.join(", "))]
    Several {
        /// The ones to choose from.
        fitting: Vec<String>,
    },
}

/// The environment that is meant: the only one, or the only one called `wanted`, as `NAME` or as `NAMESPACE/NAME`.
pub fn choose(mut environments: Vec<Environment>, wanted: Option<&str>) -> Result<Environment, ChoiceError> {
    let present: Vec<String> = environments.iter().map(Environment::full_name).collect();
    if present.is_empty() {
        return Err(ChoiceError::NoEnvironment);
    }
    if let Some(wanted) = wanted {
        environments.retain(|environment| environment.name == wanted || environment.full_name() == wanted);
    }
    match (environments.pop(), wanted) {
        (Some(only), _) if environments.is_empty() => Ok(only),
        (None, Some(wanted)) => Err(ChoiceError::NotThere {
            wanted: wanted.chars().take(LONGEST_NAME).flat_map(char::escape_debug).collect(),
            present,
        }),
        (last, _) => Err(ChoiceError::Several {
            fitting: environments.iter().chain(&last).map(Environment::full_name).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(full_name: &str) -> Environment {
        let (namespace, name) = full_name
            .split_once('/')
            .map_or((None, full_name), |(a, b)| (Some(a), b));
        Environment {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            caches: None,
            packages: Vec::new(),
        }
    }

    #[test]
    fn a_name_chooses_with_or_without_its_namespace_unless_several_have_it() {
        for (present, wanted, chosen) in [
            (&["a/x"][..], None, Ok("a/x")),
            (&["x"], Some("x"), Ok("x")),
            (&["a/x", "b/y"], Some("x"), Ok("a/x")),
            (&["a/x", "b/x"], Some("b/x"), Ok("b/x")),
            (
                &["a/x", "b/x"],
                Some("x"),
                Err("several environments; choose one with --name: a/x, b/x"),
            ),
            (&["a/x", "b/x", "y"], Some("x"), Err("choose one with --name: a/x, b/x")),
            (&["a/x", "y"], None, Err("choose one with --name: a/x, y")),
            (&["a/x"], Some("b/x"), Err("no environment `b/x`; it has a/x")),
            (&["a/x"], Some("a\n"), Err("no environment `a\\n`; it has a/x")),
            (&[], None, Err("no CUDAEnvironment")),
            (&[], Some("x"), Err("no CUDAEnvironment")),
        ] {
            let found = choose(present.iter().map(|name| environment(name)).collect(), wanted);
            match (found, chosen) {
                (Ok(found), Ok(name)) => assert_eq!(found.full_name(), name),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
                (found, _) => panic!("{present:?} {wanted:?}: {found:?}"),
            }
        }
    }
}
