//! LiveKit's RoomService over Twirp: what an application's own server does with rooms and their members.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::any;
use livekit_protocol as proto;

use super::twirp::{Call, Code, Fault, serve};
use crate::signal::api::{RoomAnswer, RoomCall};
use crate::signal::http::{Services, check_room_name};

const SERVICE: &str = "RoomService";

pub fn routes() -> Router<Arc<Services>> {
    Router::new().route("/twirp/livekit.RoomService/{method}", any(handle))
}

async fn handle(State(services): State<Arc<Services>>, Path(method): Path<String>, request: Request) -> Response {
    serve(request, async |call| answer(&services, &method, call).await).await
}

async fn answer(services: &Services, method: &str, call: Call) -> Result<Response, Fault> {
    let gate = &services.gate;
    let ask = async |asked: RoomCall| services.handle.room_call(asked).await.map_err(Fault::from);
    let admin = |room: &str| -> Result<(), Fault> {
        gate.admin(&call.headers, room)?;
        named(room)
    };
    match method {
        "CreateRoom" => {
            gate.create(&call.headers)?;
            let asked: proto::CreateRoomRequest = call.read()?;
            named(&asked.name)?;
            match ask(RoomCall::Create(asked)).await? {
                RoomAnswer::Room(room) => call.answer(&room),
                _ => Err(odd()),
            }
        }
        "ListRooms" => {
            gate.list(&call.headers)?;
            match ask(RoomCall::List(call.read()?)).await? {
                RoomAnswer::Rooms(rooms) => call.answer(&proto::ListRoomsResponse { rooms }),
                _ => Err(odd()),
            }
        }
        "DeleteRoom" => {
            gate.create(&call.headers)?;
            let asked: proto::DeleteRoomRequest = call.read()?;
            ask(RoomCall::Delete(asked)).await?;
            call.answer(&proto::DeleteRoomResponse {})
        }
        "ListParticipants" => {
            let asked: proto::ListParticipantsRequest = call.read()?;
            admin(&asked.room)?;
            match ask(RoomCall::Members(asked)).await? {
                RoomAnswer::Members(participants) => call.answer(&proto::ListParticipantsResponse { participants }),
                _ => Err(odd()),
            }
        }
        "GetParticipant" => {
            let asked: proto::RoomParticipantIdentity = call.read()?;
            admin(&asked.room)?;
            member(&call, ask(RoomCall::Member(asked)).await?)
        }
        "RemoveParticipant" => {
            let asked: proto::RoomParticipantIdentity = call.read()?;
            admin(&asked.room)?;
            ask(RoomCall::Remove(asked)).await?;
            call.answer(&proto::RemoveParticipantResponse {})
        }
        "MutePublishedTrack" => {
            let asked: proto::MuteRoomTrackRequest = call.read()?;
            admin(&asked.room)?;
            match ask(RoomCall::Mute(asked)).await? {
                RoomAnswer::Track(track) => call.answer(&proto::MuteRoomTrackResponse { track: Some(track) }),
                _ => Err(odd()),
            }
        }
        "UpdateParticipant" => {
            let asked: proto::UpdateParticipantRequest = call.read()?;
            admin(&asked.room)?;
            member(&call, ask(RoomCall::Update(asked)).await?)
        }
        "UpdateSubscriptions" => {
            let asked: proto::UpdateSubscriptionsRequest = call.read()?;
            admin(&asked.room)?;
            ask(RoomCall::Subscriptions(asked)).await?;
            call.answer(&proto::UpdateSubscriptionsResponse {})
        }
        "SendData" => {
            let asked: proto::SendDataRequest = call.read()?;
            admin(&asked.room)?;
            ask(RoomCall::Data(asked)).await?;
            call.answer(&proto::SendDataResponse {})
        }
        "UpdateRoomMetadata" => {
            let asked: proto::UpdateRoomMetadataRequest = call.read()?;
            admin(&asked.room)?;
            match ask(RoomCall::Metadata(asked)).await? {
                RoomAnswer::Room(room) => call.answer(&room),
                _ => Err(odd()),
            }
        }
        "MoveParticipant" | "ForwardParticipant" => {
            let text = "A member stays in the room that its token is for: its client can be asked to leave (RemoveParticipant) and to join another.";
            Err(Fault::new(Code::Unimplemented, text))
        }
        "PerformRpc" => {
            Err(Fault::new(Code::Unimplemented, "Members call each other; the server calls nobody. SendData reaches them."))
        }
        _ => Err(Fault::no_method(SERVICE, method)),
    }
}

fn member(call: &Call, answer: RoomAnswer) -> Result<Response, Fault> {
    match answer {
        RoomAnswer::Member(member) => call.answer(&*member),
        _ => Err(odd()),
    }
}

fn named(room: &str) -> Result<(), Fault> {
    check_room_name(room).map_err(|failure| Fault::invalid(format!("The name of the room: {}", failure.text())))
}

fn odd() -> Fault {
    Fault::new(Code::Internal, "The answer is of another kind than the question.")
}
