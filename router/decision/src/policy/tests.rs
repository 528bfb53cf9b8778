use super::*;
use tiermesh_core::error::with_causes;

const ONE: &str = r#"
default = "a"
[policy.a]
deadline = "steer"
weights = { latency = 1, cost = 1, quality = 1, load = 1, energy = 0, preference = 0 }
preference = { DEVICE = 1, MEC = 2, CLOUD = 3 }
"#;

fn refused(from: &str, to: &str) -> String {
    assert!(ONE.contains(from), "{from}");
    with_causes(&Policies::parse(&ONE.replace(from, to)).unwrap_err())
}

/// Fails unless `error` has every one of the words.
fn says(error: &str, words: &str) {
    for word in words.split(", ") {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn an_error_names_key_value_and_what_is_allowed() {
    for (from, to, words) in [
        ("MEC = 2", "MEC = 101", "preference.MEC, 101, 0 to 100"),
        ("cost = 1", "cost = -1", "weights.cost, -1, 0 to 1000000"),
        ("cost = 1", "cost = nan", "weights.cost, NaN, 0 to 1000000"),
        ("cost = 1", "price = 1", "price, unknown field, `cost`"),
        ("\"steer\"", "\"stear\"", "stear, steer, require"),
        ("default = \"a\"", "default = \"b\"", "default, `b`, a"),
    ] {
        says(&refused(from, to), words);
    }
    for (line, words) in [
        ("total_ms = 0", "total_ms, is 0, 1 to 86400000"),
        ("fallbacks = 9", "fallbacks, 9, 0 to 4"),
        ("priority = 256", "priority, 256, 0 to 255"),
        ("complexity = 1.5", "complexity, 1.5, 0 to 1"),
        ("explore = 0.6", "explore, 0.6, 0 to 0.5"),
        ("metered = \"never\"", "never, allow, avoid"),
        ("privacy = \"none\"", "none, device, any"),
    ] {
        let known = "deadline = \"steer\"";
        says(&refused(known, &format!("{known}\n{line}")), words);
    }
}

#[test]
fn a_site_adds_and_replaces_by_name() {
    let base = Policies::parse(ONE).unwrap();
    let more = ONE
        .replace("default = \"a\"", "")
        .replace("policy.a", "policy.b");
    let both = base.extended(&more).unwrap();
    assert_eq!(both.default_name().as_str(), "a");
    let names: Vec<_> = both.names().map(PolicyName::as_str).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn an_unknown_policy_is_named_with_the_allowed_ones() {
    let policies = Policies::builtin();
    let error = policies
        .require(&PolicyName::new("gamign").unwrap())
        .unwrap_err();
    assert_eq!(error.class, ErrorClass::NotFound);
    assert_eq!(error.reason, "POLICY_NOT_FOUND");
    assert!(error.message.contains("`gamign`"), "{error}");
    for name in policies.names() {
        assert!(error.message.contains(name.as_str()), "{error}");
    }
}

#[test]
fn builtin_weights_add_up() {
    for policy in Policies::builtin().iter() {
        let w = policy.weights;
        let sum = w.latency + w.cost + w.quality + w.load + w.energy + w.preference;
        assert!((sum - 1.0).abs() < 1e-9, "{}: {sum}", policy.name);
        assert!(!policy.description.is_empty());
    }
}

fn site(tenants: &str) -> Result<Policies, PolicyError> {
    Policies::builtin().extended(tenants)
}

#[test]
fn a_tenant_has_its_own_default_and_no_other_policies_than_its_own() {
    let text = "[tenants.acme]\ndefault = \"iot\"\nmay_use = [\"iot\", \"batch\"]\n\
                [tenants.'big corp']\ndefault = \"gaming\"\n";
    let policies = site(text).unwrap();
    let name = |name: &str| PolicyName::new(name).unwrap();
    let default = |tenant| policies.default_for(tenant).map(PolicyName::as_str);
    assert_eq!(default(Some("acme")), Some("iot"));
    assert_eq!(default(Some("big corp")), Some("gaming"));
    assert_eq!((default(Some("other")), default(None)), (None, None));
    let allowed = |policy: &str, tenant| policies.permitted(&name(policy), tenant);
    assert!(allowed("batch", Some("acme")).is_ok());
    for tenant in [None, Some("other"), Some("big corp")] {
        assert!(allowed("gaming", tenant).is_ok());
    }
    let error = allowed("gaming", Some("acme")).unwrap_err();
    assert_eq!(
        (error.class, error.reason),
        (ErrorClass::Forbidden, "POLICY_NOT_ALLOWED")
    );
    assert!(error.message.contains("batch, iot"), "{error}");
    // Who may not name it does not learn that it is not there.
    let absent = allowed("gamign", Some("acme")).unwrap_err();
    assert_eq!(absent.reason, "POLICY_NOT_ALLOWED");
    // Another file replaces one tenant and keeps the other.
    let later = policies.extended("[tenants.acme]\ndefault = \"batch\"\n");
    let later = later.unwrap();
    assert_eq!(later.default_for(Some("acme")).unwrap().as_str(), "batch");
    assert!(later.tenant("big corp").is_some());
}

#[test]
fn a_tenants_error_names_tenant_key_value_and_what_is_allowed() {
    for (text, said) in [
        (
            "[tenants.acme]\ndefault = \"nope\"",
            "acme, default, `nope`, gaming",
        ),
        (
            "[tenants.acme]\ndefault = \"iot\"\nmay_use = [\"iot\", \"nope\"]",
            "acme, may_use, `nope`, gaming",
        ),
        (
            "[tenants.acme]\ndefault = \"iot\"\nmay_use = [\"batch\"]",
            "acme, default, `iot`, batch",
        ),
        (
            "[tenants.'']\ndefault = \"iot\"",
            "tenant ``, name, 1 to 200, bytes",
        ),
    ] {
        says(&site(text).unwrap_err().to_string(), said);
    }
    let error = site("[tenants.acme]\ndefault = \"iot\"\nmay = 1").unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("may_use"), "{source}");
}
