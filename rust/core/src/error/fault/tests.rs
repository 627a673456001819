use super::*;
use crate::error::Error;

/// As they come from an object store: in text, under several wrappers.
fn answered(text: &str) -> Error {
    let source = std::io::Error::other(text.to_string());
    let error = Store::Generic { store: "S3", source: Box::new(source) };
    Error::lance("s3://b/t.lance", &Lance::io_source(Box::new(error)))
}

fn fault(error: &Error) -> Fault {
    error.fault().expect("it has a cause")
}

#[test]
fn answers_of_a_store_are_told_apart_and_said_in_one_line() {
    let status = |status: &str, code: &str| {
        format!(
            "Error performing GET http://h/b?list-type=2 in 1.2ms - Server returned non-2xx \
             status code: {status}: <?xml version=\"1.0\"?>\n<Error><Code>{code}</Code>\
             <StringToSign>secret</StringToSign></Error>"
        )
    };
    for (text, wanted, line) in [
        (status("503 Service Unavailable", "SlowDown"), Fault::Passing, "error (SlowDown)"),
        (status("500 Internal Server Error", "X"), Fault::Passing, "error (X)"),
        (status("403 Forbidden", "SignatureDoesNotMatch"), Fault::Denied, "(SignatureDoes"),
        (status("404 Not Found", "NoSuchBucket"), Fault::NoBucket, "no such bucket"),
        (status("301 Moved", "PermanentRedirect"), Fault::OtherRegion, "another region"),
        (status("400 Bad Request", "EntityTooLarge"), Fault::Lasting, "(EntityTooLarge)"),
        (
            "LanceError(IO): Failed to get AWS credentials: CredentialsNotLoaded(X { .. })".into(),
            Fault::NoCredentials,
            "no credentials",
        ),
    ] {
        let error = answered(&text);
        assert_eq!(fault(&error), wanted, "{text}");
        let message = error.to_string();
        assert!(message.contains(line), "{message}");
        assert!(!message.contains(['<', '\n']), "{message}");
        assert!(!message.contains("secret"), "{message}");
        assert_eq!(error.may_pass(), wanted == Fault::Passing, "{text}");
    }
}

#[test]
fn errors_of_the_system_that_may_pass_are_known() {
    use rustix::io::Errno;
    let errors = [
        (Errno::IO, true),
        (Errno::AGAIN, true),
        (Errno::MFILE, true),
        (Errno::NFILE, true),
        (Errno::NOSPC, true),
        (Errno::DQUOT, true),
        (Errno::NOMEM, true),
        (Errno::TIMEDOUT, true),
        (Errno::CONNREFUSED, true),
        (Errno::CONNRESET, true),
        (Errno::ISDIR, false),
        (Errno::NAMETOOLONG, false),
        (Errno::INVAL, false),
    ];
    for (errno, passes) in errors {
        let error = || std::io::Error::from(errno);
        assert_eq!(Error::io("x", &error()).may_pass(), passes, "{errno:?}");
        // Whoever owns a folder can mend it, whatever is wrong with it.
        assert!(Error::write("x", &error()).may_pass(), "{errno:?}");
        // Also under what Lance and Arrow wrap it in.
        let lance = || Lance::io_source(Box::new(error()));
        assert_eq!(Error::lance("x", &lance()).may_pass(), passes, "{errno:?}");
        let wrapped = Lance::External { source: Box::new(lance()) };
        assert_eq!(Error::lance("x", &wrapped).may_pass(), passes, "{errno:?}");
        let arrow = arrow_schema::ArrowError::ExternalError(Box::new(lance()));
        assert_eq!(Error::arrow("x", &arrow).may_pass(), passes, "{errno:?}");
    }
    assert!(!Error::io("x", &std::io::Error::from(Errno::ACCESS)).may_pass());
    assert!(Error::refused_now("x", "it is full").may_pass());
    assert!(!Error::refused("x", "others can write to it").may_pass());
}

#[test]
fn damage_does_not_pass() {
    let cut = std::io::Error::from(ErrorKind::UnexpectedEof);
    assert!(!Error::lance("x", &Lance::io_source(Box::new(cut))).may_pass());
    let corrupt = Error::lance("x", &Lance::invalid_input("bad magic"));
    assert!(matches!(corrupt, Error::Corrupt { .. }));
    assert!(!corrupt.may_pass());
    assert!(!Error::bug("a panic").may_pass());
}

#[test]
fn the_source_is_kept() {
    let refused = std::io::Error::from(rustix::io::Errno::CONNREFUSED);
    let error = Store::Generic { store: "S3", source: Box::new(refused) };
    let error = Error::lance("s3://b/t", &Lance::io_source(Box::new(error)));
    let texts: Vec<String> = chain(&error).map(ToString::to_string).collect();
    assert!(texts.last().is_some_and(|text| text.contains("refused")), "{texts:?}");
    assert!(texts.len() > 2, "{texts:?}");
}

#[test]
fn every_error_of_a_library_keeps_its_source() {
    let io = || std::io::Error::other("the disk is on fire");
    let last = |error: &Error| chain(error).last().unwrap().to_string();
    let corrupt = Lance::corrupt_file(object_store::path::Path::from("x"), "bad magic");
    let missing = std::io::Error::from(ErrorKind::NotFound);
    for (error, wanted) in [
        (Error::invalid("7 rows", "fewer").caused_by(&io()), "the disk is on fire"),
        (Error::unsupported("maps").caused_by(&io()), "the disk is on fire"),
        (Error::corrupt("x", "it is cut").caused_by(&io()), "the disk is on fire"),
        (Error::bug("it does not fit").caused_by(&io()), "the disk is on fire"),
        (Error::write("x", &io()), "the disk is on fire"),
        (Error::lance("x", &corrupt), "bad magic"),
        (Error::lance("x", &Lance::not_supported("bad magic")), "bad magic"),
        (Error::io("x", &missing), "entity not found"),
        (Error::lance("x", &Lance::io_source(Box::new(missing))), "entity not found"),
    ] {
        assert!(StdError::source(&error).is_some(), "{error}");
        assert!(last(&error).contains(wanted), "{error}: {}", last(&error));
        // The owner of a folder can fix it.
        assert_eq!(error.may_pass(), matches!(error, Error::Write { .. }), "{error}");
    }
    let error = Error::bug("it does not fit").caused_by(&io()).to_string();
    assert!(error.ends_with("it does not fit (the disk is on fire)"), "{error}");
}

#[test]
fn what_may_pass_is_told_from_damage_whatever_was_being_done() {
    use rustix::io::Errno;
    let made: [fn() -> Error; 4] = [
        || Error::invalid("7 rows", "fewer"),
        || Error::unsupported("maps"),
        || Error::corrupt("x", "it is cut"),
        || Error::bug("it does not fit"),
    ];
    for error in made {
        assert!(!error().may_pass(), "{}", error());
        assert_eq!(error().fault(), None);
        for (errno, passes) in [(Errno::IO, true), (Errno::TIMEDOUT, true), (Errno::INVAL, false)] {
            let wrapped = arrow_schema::ArrowError::from_external_error(Box::new(
                Lance::io_source(Box::new(std::io::Error::from(errno))),
            ));
            let error = error().caused_by(&wrapped);
            assert_eq!(error.may_pass(), passes, "{error}");
            assert_eq!(error.fault().is_some(), passes, "{error}");
        }
    }
}

#[test]
fn our_own_errors_come_back_from_lance_as_they_were() {
    let cut = Error::corrupt("a.lance", "it has 7 bytes where 9 were written");
    let text = cut.to_string();
    let lance = Lance::invalid_input_source(Box::new(cut));
    let wrapped = Lance::External { source: Box::new(lance) };
    let arrow = arrow_schema::ArrowError::ExternalError(Box::new(wrapped));
    let error = Error::arrow("another path", &arrow);
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    assert_eq!(error.to_string(), text);
}
