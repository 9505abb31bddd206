//! Tensors in the encodings that they came in.

use ir::{DType, Data, Encoding, SparseTensor, Tensor};

use super::{Exporter, types::pairs};
use crate::generated as pb;
use crate::spelling::{self, has, text};

impl Exporter<'_> {
    /// A tensor. An initializer has the name of its value, another tensor that of its notes.
    pub(crate) fn tensor(&mut self, tensor: &Tensor, name: Option<&str>) -> pb::TensorProto {
        let spelling = tensor.spelling;
        let notes = tensor.notes.as_deref();
        let own_name = notes.map_or("", |notes| &notes.name);
        let mut proto = pb::TensorProto {
            dims: tensor.dims().iter().map(|&size| size as i64).collect(),
            data_type: Some(tensor.dtype().code()),
            name: name.map(str::to_string).or_else(|| text(spelling, spelling::NAME, own_name)),
            doc_string: text(spelling, spelling::DOC, notes.map_or("", |notes| &notes.doc)),
            metadata_props: notes.map(|notes| pairs(&notes.metadata)).unwrap_or_default(),
            data_location: has(spelling, spelling::LOCATION).then_some(0),
            ..Default::default()
        };
        if let Some(offset) = self.placer.place(tensor) {
            let entries = [
                ("location".to_string(), self.placer.file.clone()),
                ("offset".to_string(), offset.to_string()),
                ("length".to_string(), tensor.bytes().len().to_string()),
            ];
            proto.external_data = pairs(&entries);
            proto.data_location = Some(1);
            return proto;
        }
        match tensor.data() {
            Data::Strings(strings) => proto.string_data = strings.to_vec(),
            Data::Bytes(bytes) if tensor.encoding == Encoding::Typed => {
                typed(tensor.dtype(), tensor, bytes, &mut proto)
            }
            Data::Bytes(bytes) => proto.raw_data = Some(bytes.clone()),
        }
        proto
    }

    /// A sparse tensor.
    pub(crate) fn sparse(&mut self, sparse: &SparseTensor, name: Option<&str>) -> pb::SparseTensorProto {
        pb::SparseTensorProto {
            values: Some(self.tensor(&sparse.values, name)),
            indices: Some(self.tensor(&sparse.indices, None)),
            dims: sparse.dims.iter().map(|&size| size as i64).collect(),
        }
    }
}

fn numbers<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|&chunk| read(chunk)).collect()
}

/// Spreads the elements over the field that belongs to their type.
fn typed(dtype: DType, tensor: &Tensor, bytes: &[u8], proto: &mut pb::TensorProto) {
    match dtype {
        DType::F32 | DType::C64 => proto.float_data = numbers(bytes, f32::from_le_bytes),
        DType::F64 | DType::C128 => proto.double_data = numbers(bytes, f64::from_le_bytes),
        DType::I64 => proto.int64_data = numbers(bytes, i64::from_le_bytes),
        DType::U64 => proto.uint64_data = numbers(bytes, u64::from_le_bytes),
        DType::U32 => proto.uint64_data = numbers(bytes, |b| u64::from(u32::from_le_bytes(b))),
        DType::I32 => proto.int32_data = numbers(bytes, i32::from_le_bytes),
        DType::I16 => proto.int32_data = numbers(bytes, |b| i32::from(i16::from_le_bytes(b))),
        DType::I8 => proto.int32_data = numbers(bytes, |b| i32::from(i8::from_le_bytes(b))),
        DType::F6E2M3 | DType::F6E3M2 => proto.int32_data = unpack_six_bits(bytes, tensor.elements()),
        _ if dtype.bits() == 16 => proto.int32_data = numbers(bytes, |b| i32::from(u16::from_le_bytes(b))),
        _ => proto.int32_data = bytes.iter().map(|&byte| i32::from(byte)).collect(),
    }
}

/// Four elements from three bytes, low bits first.
fn unpack_six_bits(bytes: &[u8], elements: usize) -> Vec<i32> {
    let group = |bytes: &[u8]| {
        let bits =
            bytes.iter().enumerate().fold(0u32, |bits, (at, &byte)| bits | u32::from(byte) << (8 * at));
        (0..4).map(move |at| (bits >> (6 * at) & 63) as i32)
    };
    bytes.chunks(3).flat_map(group).take(elements).collect()
}
