//! The command line.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::Failure;

#[derive(Debug, PartialEq)]
pub struct Options {
    /// The program is a gofer, which confines itself: it needs the machine's files and root's rights for that.
    pub gofer: bool,
    /// Files of control groups in which a thread joins by writing 0.
    pub join: Vec<PathBuf>,
    /// Descriptors that the program gets, as 3, 4, 5 and so on.
    pub pass: Vec<i32>,
    /// All of its environment, as K=V.
    pub env: Vec<CString>,
    /// The program.
    pub exe: PathBuf,
    /// Its arguments, the name it goes by included.
    pub argv: Vec<CString>,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut arguments = arguments;
        let (mut join, mut pass, mut env, mut exe) = (Vec::new(), Vec::new(), Vec::new(), None);
        let mut gofer = false;
        while let Some(option) = arguments.next() {
            match option.to_str() {
                Some("--gofer") => gofer = true,
                Some("--join") => join.push(value(&mut arguments)?),
                Some("--pass") => pass.push(number(&value(&mut arguments)?)?),
                Some("--env") => env.push(text(value(&mut arguments)?.into_os_string())?),
                Some("--exe") => exe = Some(value(&mut arguments)?),
                Some("--") => {
                    let argv =
                        arguments.map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>();
                    let argv = argv.map_err(|_| Failure::Usage("an argument holds a NUL"))?;
                    let exe = exe.ok_or(Failure::Usage("--exe is missing"))?;
                    return if argv.is_empty() {
                        Err(Failure::Usage("nothing after --"))
                    } else {
                        Ok(Self { gofer, join, pass, env, exe, argv })
                    };
                }
                _ => return Err(Failure::Usage("unknown option")),
            }
        }
        Err(Failure::Usage("-- is missing"))
    }
}

fn value(arguments: &mut impl Iterator<Item = OsString>) -> Result<PathBuf, Failure> {
    arguments.next().map(PathBuf::from).ok_or(Failure::Usage("an option without its value"))
}

fn text(word: OsString) -> Result<CString, Failure> {
    CString::new(word.into_vec()).map_err(|_| Failure::Usage("an argument holds a NUL"))
}

fn number(word: &Path) -> Result<i32, Failure> {
    let number = word.to_str().and_then(|word| word.parse().ok()).filter(|number| *number > 2);
    number.ok_or(Failure::Usage("--pass takes a descriptor above 2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, Failure> {
        Options::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn everything_after_the_dashes_belongs_to_the_program() {
        let options =
            parse(&["--join", "/a", "--join", "/b", "--exe", "/x", "--", "x", "--join", "--"]).unwrap();
        assert!(!options.gofer);
        assert_eq!(options.join, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(options.exe, PathBuf::from("/x"));
        assert_eq!(options.argv, [c"x".to_owned(), c"--join".to_owned(), c"--".to_owned()]);
    }

    #[test]
    fn descriptors_keep_their_order() {
        let options = parse(&["--pass", "300", "--pass", "4", "--exe", "/x", "--", "x"]).unwrap();
        assert_eq!(options.pass, [300, 4]);
    }

    #[test]
    fn a_gofer_is_asked_for_by_name() {
        assert!(parse(&["--gofer", "--exe", "/x", "--", "x"]).unwrap().gofer);
    }

    #[test]
    fn what_is_incomplete_is_refused() {
        for words in [
            &["--pass", "2", "--exe", "/x", "--", "x"][..],
            &["--exe", "/x"],
            &["--", "x"],
            &["--exe", "/x", "--"],
            &["--exe"],
            &["x"],
        ] {
            assert!(matches!(parse(words), Err(Failure::Usage(_))), "{words:?}");
        }
    }
}
