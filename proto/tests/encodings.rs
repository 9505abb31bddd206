//! Every element type in every encoding. `data/encodings.onnx` is made by the onnx package: see the script beside it.

mod common;

use bytes::Bytes;
use common::pb::TensorProto;
use ir::{DType, Data, Encoding};

fn golden() -> (Bytes, ir::Model) {
    let bytes = std::fs::read(common::root().join("proto/tests/data/encodings.onnx")).expect("the fixture");
    let bytes = Bytes::from(bytes);
    let loaded = onnxq_proto::read_bytes(bytes.clone(), None).expect("it reads");
    (bytes, loaded.model)
}

#[test]
fn typed_fields_give_the_same_bytes_as_raw_data() {
    let (_, model) = golden();
    let graph = model.main();
    let tensor = |name: &str| graph.constant(graph.find(name).expect(name)).expect(name);
    for &dtype in DType::ALL.iter().filter(|&&dtype| dtype != DType::String) {
        let names: Vec<_> = graph.values().map(|v| graph.value(v).name().clone()).collect();
        let of_type = |suffix| {
            let found = names.iter().find(|name| name.ends_with(suffix) && tensor(name).dtype() == dtype);
            tensor(found.unwrap_or_else(|| panic!("{dtype}{suffix}")))
        };
        let (raw, typed) = (of_type(".raw"), of_type(".typed"));
        assert_eq!((raw.encoding, typed.encoding), (Encoding::Raw, Encoding::Typed));
        assert_eq!((raw.dims(), raw.bytes()), (typed.dims(), typed.bytes()), "{dtype}");
    }
    assert_eq!(tensor("strings").data(), &Data::Strings([Bytes::from("é"), Bytes::new()].into()));
    assert_eq!(tensor("empty.1").encoding, Encoding::Typed);
    assert_eq!(tensor("empty_raw.1").encoding, Encoding::Raw);
}

#[test]
fn encodings_are_kept() {
    let (bytes, model) = golden();
    assert!(onnxq_proto::to_bytes(&model).expect("it writes") == bytes);
}

fn read_tensor(tensor: TensorProto) -> Result<ir::Tensor, String> {
    let mut graph = common::graph(vec![], &[], &[]);
    graph.initializer.push(TensorProto { name: Some("w".into()), ..tensor });
    let loaded = onnxq_proto::read_bytes(common::encode(&common::model(graph)), None);
    let model = loaded.map_err(|error| error.to_string())?.model;
    let graph = model.main();
    Ok(graph.find("w").and_then(|w| graph.constant(w)).expect("it is there").clone())
}

fn int32(dtype: i32, sizes: &[i64], entries: &[i32]) -> TensorProto {
    TensorProto {
        data_type: Some(dtype),
        dims: sizes.to_vec(),
        int32_data: entries.to_vec(),
        ..Default::default()
    }
}

#[test]
fn signed_spellings_of_bit_patterns_are_read() {
    // uint8 255 and float16 -1.0 as a writer spells them that goes through signed types.
    assert_eq!(&read_tensor(int32(2, &[2], &[-1, 255])).unwrap().bytes()[..], [255, 255]);
    assert_eq!(&read_tensor(int32(10, &[1], &[0xBC00 - 0x1_0000])).unwrap().bytes()[..], [0x00, 0xBC]);
    // Two int4 a byte, the last one half filled.
    assert_eq!(&read_tensor(int32(22, &[3], &[-8, 5])).unwrap().bytes()[..], [0xF8, 0x05]);
}

#[test]
fn broken_tensors_are_refused_with_a_reason() {
    let raw = |dtype, sizes: &[i64], bytes: usize| TensorProto {
        data_type: Some(dtype),
        dims: sizes.to_vec(),
        raw_data: Some(vec![0; bytes].into()),
        ..Default::default()
    };
    let cases: Vec<(TensorProto, &str)> = vec![
        (raw(1, &[2], 7), "float of sizes [2] needs 8 bytes, found 7"),
        (raw(1, &[1 << 40, 1 << 40], 4), "overflow"),
        (raw(1, &[i64::MAX], 4), "overflow"),
        (raw(1, &[-1], 4), "negative size -1"),
        (raw(0, &[1], 4), "unknown element type 0"),
        (raw(99, &[1], 4), "unknown element type 99"),
        (raw(8, &[1], 4), "string elements cannot stand in raw_data"),
        (raw(22, &[3], 1), "int4 of sizes [3] needs 2 bytes, found 1"),
        (int32(22, &[3], &[1]), "int4 of sizes [3] needs 2 entries, found 1"),
        (int32(3, &[1], &[256]), "entry 0 of int32_data is 256, which no int8 can be"),
        (int32(2, &[2], &[0, -129]), "entry 1 of int32_data is -129, which no uint8 can be"),
        (int32(27, &[1], &[64]), "entry 0 of int32_data is 64"),
        (int32(7, &[1], &[1]), "int64 of sizes [1] needs 1 entries, found 0"),
        (
            TensorProto {
                data_type: Some(12),
                dims: vec![1],
                uint64_data: vec![1 << 32],
                ..Default::default()
            },
            "entry 0 of uint64_data is 4294967296, which no uint32 can be",
        ),
        (
            TensorProto { raw_data: Some(vec![0; 4].into()), ..int32(6, &[1], &[1]) },
            "int32 elements cannot stand in int32_data",
        ),
        (TensorProto { segment: Some(Default::default()), ..raw(1, &[1], 4) }, "segments are not supported"),
        (TensorProto { data_type: Some(1), dims: vec![1], ..Default::default() }, "needs 1 entries, found 0"),
    ];
    for (tensor, expected) in cases {
        let error = read_tensor(tensor).expect_err(expected);
        assert!(error.contains(expected) && error.contains("tensor \"w\""), "{error}\nexpected: {expected}");
    }
}

#[test]
fn a_large_empty_tensor_is_empty_and_sizes_that_overflow_are_refused() {
    let empty = |dims: &[i64]| TensorProto { data_type: Some(1), dims: dims.to_vec(), ..Default::default() };
    assert_eq!(read_tensor(empty(&[0, 1 << 31, 1 << 31])).expect("empty").elements(), 0);
    // Products of some of the sizes must not overflow either.
    let error = read_tensor(empty(&[0, i64::MAX, i64::MAX])).expect_err("too large");
    assert!(error.contains("overflow"), "{error}");
}
