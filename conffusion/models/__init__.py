"""Networks: U-Nets of SR3, Palette and ADM, image encoders, and their official checkpoints."""

from conffusion.models.encoder_unet import EncoderUNet
from conffusion.models.encoders import Encoder, build_encoder
from conffusion.models.official import load_official, official_state_dict
from conffusion.models.unet import UNet, build_unet

__all__ = ["Encoder", "EncoderUNet", "UNet", "build_encoder", "build_unet", "load_official", "official_state_dict"]
