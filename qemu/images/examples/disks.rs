//! Turns an image into disks and says where they are: `disks IMAGE CACHE-DIRECTORY`.

use std::error::Error;
use std::path::PathBuf;

use uvm_images::{load, Cache, Platform};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(image), Some(dir), None) = (args.next(), args.next(), args.next()) else {
        return Err("usage: disks IMAGE CACHE-DIRECTORY".into());
    };
    let image = load(&image, &Platform::of_machine(), &Cache::open(Some(&dir))?)?;
    for layer in image.layers {
        println!("{}", layer.path.display());
    }
    Ok(())
}
