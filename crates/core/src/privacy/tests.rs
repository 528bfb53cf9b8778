use super::*;
use crate::request::RawRequest;

fn sealed(change: impl FnOnce(&mut RawRequest)) -> Sealed<Request> {
    let mut raw = RawRequest {
        request_id: "r".into(),
        user_id: "ann".into(),
        policy: "interactive".into(),
        content: Some(Content::Prompt("secret".into())),
        ..RawRequest::default()
    };
    change(&mut raw);
    Sealed::new(raw.validate().unwrap())
}

fn place(tier: Tier, node: &str) -> Destination {
    Destination {
        tier,
        region: Some(Region::new("ap-southeast-7").unwrap()),
        node: NodeId::new(node).unwrap(),
        owner: (tier == Tier::Device).then(|| UserId::new("ann").unwrap()),
    }
}

#[test]
fn privacy_forbids_the_tiers_beyond_it() {
    let allowed = |privacy| {
        let request = sealed(|r| {
            r.privacy = Some(privacy);
            r.residency = "ap-southeast-7".into();
        });
        Tier::ALL.map(|tier| permit(&request, &place(tier, "n")).is_ok())
    };
    assert_eq!(allowed(Privacy::Device), [true, false, false]);
    assert_eq!(allowed(Privacy::Edge), [true, true, false]);
    assert_eq!(allowed(Privacy::Region), [true, true, true]);
    assert_eq!(allowed(Privacy::Any), [true, true, true]);
}

#[test]
fn residency_holds_for_every_privacy() {
    let request = sealed(|r| r.residency = "eu-central-1".into());
    let error = permit(&request, &place(Tier::Cloud, "n")).unwrap_err();
    assert!(matches!(error, PermitError::Residency { .. }));
    let request = sealed(|r| r.privacy = Some(Privacy::Region));
    let error = permit(&request, &place(Tier::Cloud, "n")).unwrap_err();
    assert_eq!(error, PermitError::NoRegion);
}

#[test]
fn a_device_serves_only_its_owner() {
    let request = sealed(|r| r.user_id = "bob".into());
    let error = permit(&request, &place(Tier::Device, "phone")).unwrap_err();
    assert!(matches!(error, PermitError::NotOwner { .. }));
}

#[test]
fn a_permit_opens_one_request_for_one_node() {
    let (first, second) = (sealed(|_| {}), sealed(|_| {}));
    let edge = place(Tier::Mec, "edge-1");
    let pass = permit(&first, &edge).unwrap();
    assert!(first.open(&pass, &edge.node).is_ok());
    assert_eq!(second.open(&pass, &edge.node), Err(PermitError::Mismatch));
    let elsewhere = NodeId::new("edge-2").unwrap();
    assert_eq!(first.open(&pass, &elsewhere), Err(PermitError::Mismatch));
}

#[test]
fn a_tightened_request_is_another_and_never_looser() {
    let request = sealed(|_| {});
    let cloud = place(Tier::Cloud, "n");
    let pass = permit(&request, &cloud).unwrap();
    let tight = request.tightened(Privacy::Edge);
    assert!(permit(&tight, &cloud).is_err());
    assert_eq!(tight.open(&pass, &cloud.node), Err(PermitError::Mismatch));
    assert_eq!(tight.tightened(Privacy::Any).meta().privacy, Privacy::Edge);
}

#[test]
fn scope_only_narrows() {
    let scope = PermitScope::only(Tier::Mec).with(Tier::Cloud);
    let both = scope.and(PermitScope::only(Tier::Cloud).with(Tier::Device));
    assert_eq!(both, PermitScope::only(Tier::Cloud));
    assert_eq!(PermitScope::from_bits(scope.bits()), scope);
}
