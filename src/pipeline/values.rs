//! Test data sets of any type through the reference evaluator: strings, sequences and optionals, which no runtime's tensors
//! can hold.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ir::{DType, Model, Type, TypeKind};
use ops::Value;
use ops::eval::{Options, run};
use proto::TestValue;

/// The model takes or gives something other than tensors of numbers.
pub fn needs_values(model: &Model) -> bool {
    let main = model.main();
    main.inputs().iter().chain(main.outputs()).any(|&id| !is_numbers(main.value(id).ty.as_ref()))
}

fn is_numbers(ty: Option<&Type>) -> bool {
    match ty.map(|ty| &ty.kind) {
        Some(TypeKind::Tensor(tensor)) => tensor.dtype != Some(DType::String),
        // A value without a type is most likely a tensor.
        None | Some(TypeKind::None) => true,
        Some(_) => false,
    }
}

/// The data sets at a path: `test_data_set_*` folders in it, or itself; none if it holds other data.
pub fn data_sets(path: &Path) -> Result<Vec<PathBuf>> {
    let is_set = |folder: &Path| ["input_0.pb", "output_0.pb"].iter().any(|file| folder.join(file).is_file());
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    if is_set(path) {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| path.display().to_string())?;
    let mut sets = Vec::new();
    for entry in entries {
        let folder = entry?.path();
        if folder.is_dir() && is_set(&folder) {
            sets.push(folder);
        }
    }
    // `set_2` before `set_10`.
    sets.sort_by_key(|folder| (folder.as_os_str().len(), folder.clone()));
    Ok(sets)
}

/// Runs the model on one data set; the outputs in their order, under their names.
pub fn run_set(model: &Model, folder: &Path) -> Result<Vec<(String, TestValue)>> {
    let main = model.main();
    let mut inputs = Vec::new();
    // Weights that are listed as inputs have no files.
    let given = main.inputs().iter().filter(|&&id| main.value(id).data.is_none());
    let mut files = given.enumerate().map(|(at, &id)| (id, folder.join(format!("input_{at}.pb"))));
    for &id in main.inputs() {
        let held = main.value(id);
        if held.data.is_some() {
            inputs.push(None);
            continue;
        }
        let Some((_, file)) = files.next() else { bail!("input {:?} has no file", held.name()) };
        let value = proto::read_value(&file, held.ty.as_ref()).with_context(|| file.display().to_string())?;
        inputs.push(Some(to_value(value).with_context(|| file.display().to_string())?));
    }
    let outputs = run(model, inputs, &Options::default(), None)?;
    let named = main.outputs().iter().zip(outputs);
    Ok(named
        .map(|(&id, value)| {
            (main.value(id).name().to_string(), from_value(value, main.value(id).ty.as_ref()))
        })
        .collect())
}

fn to_value(value: TestValue) -> Result<Value> {
    Ok(match value {
        TestValue::Tensor(tensor) => Value::Tensor(tensor),
        TestValue::Sequence { values, .. } => {
            Value::Sequence(values.into_iter().map(to_value).collect::<Result<_>>()?)
        }
        TestValue::Optional(inner) => {
            Value::Optional(inner.map(|inner| to_value(*inner).map(Box::new)).transpose()?)
        }
        TestValue::Sparse(_) | TestValue::Map { .. } => {
            bail!("sparse tensors and maps cannot be evaluated")
        }
    })
}

/// As the declared type has it: an optional output may be handed out as its element.
fn from_value(value: Value, ty: Option<&Type>) -> TestValue {
    match (value, ty.map(|ty| &ty.kind)) {
        (Value::Optional(inner), kind) => {
            let ty = if let Some(TypeKind::Optional(ty)) = kind { Some(&**ty) } else { None };
            TestValue::Optional(inner.map(|inner| Box::new(from_value(*inner, ty))))
        }
        (value, Some(TypeKind::Optional(ty))) => {
            TestValue::Optional(Some(Box::new(from_value(value, Some(ty)))))
        }
        (Value::Tensor(tensor), _) => TestValue::Tensor(tensor),
        (Value::Sequence(values), kind) => {
            let ty = if let Some(TypeKind::Sequence(ty)) = kind { Some(&**ty) } else { None };
            let values = values.into_iter().map(|value| from_value(value, ty)).collect();
            TestValue::Sequence { elem_type: 0, values }
        }
    }
}
