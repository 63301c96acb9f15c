from typing import Literal

from pydantic import Field

from api.objects.shape import Identified, seconds
from domain.ids import IdKind, public_id
from models_db.files import File


class FileObject(Identified):
    """An uploaded file."""

    id: str = Field(description="`file-…`.")
    object: Literal["file"] = Field(default="file", description="Always `file`.")
    bytes: int = Field(description="Size.")
    created_at: int = Field(description="When it was uploaded, in seconds since 1970.")
    filename: str = Field(description="The name it was uploaded under, without folders.")
    purpose: str = Field(description="What it is for: `fine-tune`.")
    status: Literal["processed"] = Field(
        default="processed", description="Always `processed`: rows are checked before the upload is answered."
    )
    status_details: str | None = Field(default=None, description="Always null: a bad file is refused, not kept.")
    expires_at: int | None = Field(default=None, description="Always null: files stay until they are deleted.")
    rows: int | None = Field(description="Conversations in it. Ours.")
    duplicate_rows: int | None = Field(description="Rows that repeat an earlier one byte for byte. Ours.")
    data_class: str = Field(description="`public`, `internal`, `confidential` or `restricted`. Ours.")
    sha256: str = Field(description="Digest of its bytes, in hex. Ours.")

    @classmethod
    def of(cls, file: File) -> "FileObject":
        """From its row."""
        return cls(
            id=public_id(IdKind.FILE, file.id),
            bytes=file.bytes,
            created_at=seconds(file.created_at),
            filename=file.filename,
            purpose=file.purpose,
            rows=file.rows,
            duplicate_rows=file.duplicate_rows,
            data_class=file.data_class,
            sha256=file.digest.removeprefix("sha256:"),
        )
