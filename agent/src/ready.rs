//! READY: what a host that has attached is told of every stream.

use crate::hello::VERSION;
use crate::message;
use crate::packer::Packer;
use crate::stream::Stream;
use crate::streams::Streams;

/// Return the payload of READY.
pub fn payload(generation: u64, last_stream: u32, streams: &Streams) -> Vec<u8> {
    let mut packer = Packer::map(5);
    packer.text("version").unsigned(VERSION);
    packer.text("agent").text(env!("CARGO_PKG_VERSION"));
    packer.text("generation").unsigned(generation);
    packer.text("last_stream").unsigned(last_stream.into());
    packer.text("streams").open_array(streams.iter().len() as u32);
    for (id, stream) in streams.iter() {
        pack_stream(&mut packer, *id, stream);
    }
    packer.finish()
}

fn pack_stream(packer: &mut Packer, id: u32, stream: &Stream) {
    packer.open_map(6);
    packer.text("stream").unsigned(id.into());
    packer.text("op").text(stream.op);
    packer.text("pid").optional(stream.pid.map(u64::from));
    packer.text("exit");
    match &stream.exit {
        Some(exit) => message::pack_exit(packer, exit),
        None => packer.nil(),
    }
    packer.text("stdin");
    match &stream.input {
        Some(input) => {
            let (acknowledged, limit, ended) = input.state();
            packer.open_map(3);
            packer.text("acknowledged").unsigned(acknowledged);
            packer.text("limit").unsigned(limit);
            packer.text("ended").flag(ended);
        }
        None => packer.nil(),
    }
    packer.text("channels").open_array(stream.outputs().count() as u32);
    for (channel, output) in stream.outputs() {
        let (acknowledged, end, ended) = output.state();
        packer.open_map(4);
        packer.text("channel").unsigned(channel.into());
        packer.text("acknowledged").unsigned(acknowledged);
        packer.text("end").unsigned(end);
        packer.text("ended").flag(ended);
    }
}
