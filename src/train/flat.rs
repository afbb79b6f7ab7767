//! Many arrays as one: what an optimiser does to each number, a dozen operations, is then done once and not once an array.

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::mlx::{ops, Array};

/// How the arrays of a list lie one behind the other, those of one type together.
pub struct Layout {
    groups: Vec<Group>,
    count: usize,
}

struct Group {
    dtype: Dtype,
    members: Vec<Member>,
    /// Elements of all.
    size: i32,
}

struct Member {
    /// In the list.
    index: usize,
    shape: Vec<i32>,
    start: i32,
    end: i32,
}

impl Layout {
    pub fn of(arrays: &[Array]) -> Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        for (index, array) in arrays.iter().enumerate() {
            let size = i32::try_from(array.size()).ok().filter(|size| *size > 0);
            let size = size.ok_or_else(|| Error::unsupported("an array too large to train"))?;
            let dtype = array.dtype();
            // One array has no more elements than an i32 counts.
            let fits =
                |group: &Group| group.dtype == dtype && group.size.checked_add(size).is_some();
            let known = groups.iter().position(fits);
            let place = known.unwrap_or(groups.len());
            if known.is_none() {
                groups.push(Group {
                    dtype,
                    members: Vec::new(),
                    size: 0,
                });
            }
            let group = &mut groups[place];
            group.members.push(Member {
                index,
                shape: array.shape().to_vec(),
                start: group.size,
                end: group.size + size,
            });
            group.size += size;
        }
        Ok(Layout {
            groups,
            count: arrays.len(),
        })
    }

    /// The type of each group.
    pub fn types(&self) -> impl Iterator<Item = Dtype> + '_ {
        self.groups.iter().map(|group| group.dtype)
    }

    /// The arrays, laid out like those of `of`, as one `[elements]` a group.
    pub fn join(&self, arrays: &[Array]) -> Result<Vec<Array>> {
        let join = |group: &Group| {
            let flat = |member: &Member| {
                let array = arrays.get(member.index).ok_or_else(changed)?;
                ops::reshape(array, &[member.end - member.start])
            };
            let flat: Vec<_> = group.members.iter().map(flat).collect::<Result<_>>()?;
            ops::concatenate(&flat.iter().collect::<Vec<_>>(), 0)
        };
        self.groups.iter().map(join).collect()
    }

    /// Takes apart what `join` made: views of it.
    pub fn split(&self, joined: &[Array]) -> Result<Vec<Array>> {
        let mut arrays: Vec<Option<Array>> = (0..self.count).map(|_| None).collect();
        for (group, joined) in self.groups.iter().zip(joined) {
            for member in &group.members {
                let part = ops::slice(joined, &[member.start], &[member.end])?;
                let place = arrays.get_mut(member.index).ok_or_else(changed)?;
                *place = Some(ops::reshape(&part, &member.shape)?);
            }
        }
        arrays
            .into_iter()
            .map(|array| array.ok_or_else(changed))
            .collect()
    }
}

fn changed() -> Error {
    Error::internal("other arrays than those that were laid out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{self, Device};

    #[test]
    fn what_is_joined_comes_apart_as_it_was() {
        mlx::install_error_handler();
        mlx::enter(Device::Cpu).unwrap();
        let array = |from: i32, shape: &[i32], dtype: Dtype| {
            let data: Vec<f32> = (from..from + shape.iter().product::<i32>())
                .map(|i| i as f32)
                .collect();
            let flat = ops::astype(&Array::from_f32(&data).unwrap(), dtype).unwrap();
            ops::reshape(&flat, shape).unwrap()
        };
        let arrays = [
            array(0, &[2, 3], Dtype::F32),
            array(10, &[4], Dtype::BF16),
            array(20, &[3, 1], Dtype::F32),
        ];
        let layout = Layout::of(&arrays).unwrap();
        let joined = layout.join(&arrays).unwrap();
        let shapes: Vec<_> = joined
            .iter()
            .map(|array| (array.shape().to_vec(), array.dtype()))
            .collect();
        assert_eq!(shapes, [(vec![9], Dtype::F32), (vec![4], Dtype::BF16)]);
        for (apart, array) in layout.split(&joined).unwrap().iter().zip(&arrays) {
            assert_eq!(
                (apart.shape(), apart.dtype()),
                (array.shape(), array.dtype())
            );
            assert_eq!(apart.to_bytes().unwrap(), array.to_bytes().unwrap());
        }
        assert!(layout.join(&arrays[..2]).is_err());
        mlx::leave();
    }
}
