//! The checked-in code is what `agent.proto` generates.

use std::path::Path;

use prost::Message;

const UPDATE: &str = "REDWIND_UPDATE_GENERATED";
const FILES: [&str; 2] = ["redwind.v1.rs", "redwind.v1.bin"];

#[test]
fn generated_code_is_up_to_date() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = package.join("src/generated");
    let fresh = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["redwind/v1/agent.proto"], [package]).unwrap();
    std::fs::write(fresh.path().join(FILES[1]), descriptors.encode_to_vec()).unwrap();
    tonic_prost_build::configure().out_dir(fresh.path()).compile_fds(descriptors).unwrap();
    for file in FILES {
        let generated = std::fs::read(fresh.path().join(file)).unwrap();
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(checked_in.join(file), &generated).unwrap();
        }
        let current = std::fs::read(checked_in.join(file)).unwrap_or_default();
        assert!(
            current == generated,
            "src/generated/{file} differs from what agent.proto generates; update it with: \
             {UPDATE}=1 cargo test -p redwind-proto"
        );
    }
}

#[test]
fn reflection_knows_the_service_and_its_imports() {
    let set = prost_types::FileDescriptorSet::decode(redwind_proto::FILE_DESCRIPTOR_SET).unwrap();
    let names: Vec<&str> = set.file.iter().map(prost_types::FileDescriptorProto::name).collect();
    assert!(names.contains(&"google/protobuf/timestamp.proto"), "{names:?}");
    let services = set.file.iter().flat_map(|file| &file.service);
    let calls: Vec<&str> = services.flat_map(|service| &service.method).map(|m| m.name()).collect();
    assert_eq!(calls, ["GetStatus", "WatchStatus", "WaitDurable", "TakeSnapshot"]);
}
